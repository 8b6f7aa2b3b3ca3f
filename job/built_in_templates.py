"""The texts of the chat templates that come with the job. Both mark what the assistant writes, end token included."""

# Reasoning, words and tool calls of one turn, as Qwen and Hermes write them and as inference servers read them back.
_ANSWER = """\
            {%- if message['reasoning_content'] %}
                {{- '<think>\\n' + message['reasoning_content'] + '\\n</think>\\n\\n' }}
            {%- endif %}
            {{- message['content'] or '' }}
            {%- for call in message['tool_calls'] or [] %}
                {%- set call = call['function'] or call %}
                {%- set given = call['arguments'] %}
                {{- '' if loop.first and not message['content'] else '\\n' }}
                {{- '<tool_call>\\n{"name": ' + (call['name'] | tojson) + ', "arguments": ' }}
                {{- given if given is string else (given or {}) | tojson }}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
"""

# OpenAI's ChatML. Its two tokens become part of the vocabulary where they are not.
_CHATML = """\
{{- bos_token }}
{%- if tools %}
    {{- '<|im_start|>system\\nYou may call these functions:' }}
    {%- for tool in tools %}
        {{- '\\n' + (tool | tojson) }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' }}
    {%- if message['role'] == 'assistant' %}
        {%- generation %}
ANSWER
            {{- '<|im_end|>' }}
        {%- endgeneration %}
    {%- else %}
        {{- message['content'] + '<|im_end|>' }}
    {%- endif %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

# Headers that every tokenizer can spell; the end token that the tokenizer has ends each of the assistant's turns.
_PLAIN = """\
{{- bos_token }}
{%- if tools %}
    {{- '### Tools:' }}
    {%- for tool in tools %}
        {{- '\\n' + (tool | tojson) }}
    {%- endfor %}
    {{- '\\n\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '' if loop.first else '\\n\\n' }}
    {{- '### ' + message['role'] | capitalize + ':\\n' }}
    {%- if message['role'] == 'assistant' %}
        {%- generation %}
ANSWER
            {{- eos_token }}
        {%- endgeneration %}
    {%- else %}
        {{- message['content'] }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '\\n\\n### Assistant:\\n' }}
{%- endif %}
"""

CHATML = _CHATML.replace("ANSWER\n", _ANSWER)
PLAIN = _PLAIN.replace("ANSWER\n", _ANSWER)
