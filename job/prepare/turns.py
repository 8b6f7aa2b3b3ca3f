"""Which characters of a rendered conversation the assistant wrote.

A template says so itself with ``{% generation %}`` marks, or its own renderings say it: a conversation is rendered once
more with one message's words replaced. What differs is that message's; what lies between two messages' words is the
template's own writing, where the generation prompt and the end-of-turn token are safe to look for.
"""

from dataclasses import dataclass
from typing import Any

from job.errors import BadData
from job.prepare.formats import Message
from job.prepare.limits import TooCostly
from job.prepare.template import FIRST_ANSWER, FIRST_QUESTION, SECOND_ANSWER, ChatTemplate, Span, shared_length

# Every field of a message that templates write as the turn's own words.
_WORDS = ("content", "reasoning_content", "reasoning", "thinking")


def render_with_turns(template: ChatTemplate, where: str, messages: list[Message]) -> tuple[str, list[Span]]:
    """The text to train on, and the spans of the assistant's turns: what the model writes, end-of-turn token included.

    Raises:
        BadData: a turn cannot be told apart. Names *where*, the turn and the reason.
        Exception: whatever the template raises.
    """
    if template.by_markers:
        return template.render_marked(messages)
    conversation = _Conversation(template, where, messages)
    return conversation.text, conversation.turns()


@dataclass(frozen=True)
class Taught:
    """What rows with 'messages' teach under a template, as its probe shows.

    Attributes:
        end_of_turn: the tokens that carry loss at the end of an earlier turn and of the last one; "" for none.
        question: whether the user's words carry loss.
    """

    end_of_turn: tuple[str, str] = "", ""
    question: bool = False


def what_is_taught(template: ChatTemplate) -> Taught:
    try:
        text, spans = render_with_turns(template, "", template.probe)
    except (Exception, TooCostly):  # a template may refuse it; a row that it refuses names the reason
        return Taught()
    ends = _end_token(template, text, FIRST_ANSWER, spans), _end_token(template, text, SECOND_ANSWER, spans)
    question = text.find(FIRST_QUESTION)
    return Taught(ends, any(begin <= question < end for begin, end in spans))


def _end_token(template: ChatTemplate, text: str, answer: str, spans: list[Span]) -> str:
    after = text.index(answer) + len(answer)
    tails = [text[after:end] for begin, end in spans if begin < after <= end]
    return ["", *template.added_tokens(tails[0])][-1] if tails else ""


class _Conversation:
    """One row. Each message is rendered with other words at most once."""

    def __init__(self, template: ChatTemplate, where: str, messages: list[Message]) -> None:
        self._template, self._where, self._messages = template, where, messages
        self.text = self._write(messages)
        self._words: dict[int, Span | None] = {}
        # Digits, so that it can stand for a number in a tool call too.
        self._mark = "70315824966"
        while self._mark in self.text:
            self._mark += "7"

    def _write(self, messages: list[Message]) -> str:
        """The text, with the token that ends the last turn where the template leaves that to a header to come."""
        ended = messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls")
        return self._template.render(messages) + (self._template.unclosed if ended else "")

    def turns(self) -> list[Span]:
        spans: list[Span] = []
        for index, message in enumerate(self._messages):
            if message["role"] == "assistant":
                spans.append(self._turn(index, after=spans[-1][1] if spans else 0))
        return spans

    def _turn(self, index: int, after: int) -> Span:
        words = self._words_of(index)
        if words is None or self._leaves_calls_out(index):
            raise self._refusal(index, "the template leaves its words or its tool calls out")
        begin, end = self._begin(index, words[0]), self._end(index, words[1])
        if not after <= begin < end:
            raise self._refusal(index, "it runs into another")
        return begin, end

    def _begin(self, index: int, words: int) -> int:
        """Where what the model is given ends: at *words*, the turn's own, or at what the template opens them with."""
        template = self._template
        for opening in template.openings:
            if template.prompt and self.text.endswith(template.prompt + opening, 0, words):
                return words - len(opening)
        before = next((earlier for earlier in reversed(range(index)) if self._words_of(earlier)), None)
        start = (self._words_of(before) or (0, 0))[1] if before is not None else 0
        for cut in template.prompt_cuts:
            if (found := self.text.rfind(cut, start, words)) >= 0:
                return found + len(cut)
        # No header: a turn that goes on after a tool's answer, or a template that has none.
        given = template.render(self._messages[:index], generation_prompt=True)
        if self.text.startswith(given):
            return min(len(given), words)
        given = self._given_since(before, index) if before is not None else ""
        if given and self.text.startswith(given, start, words):
            return start + len(given)
        raise self._refusal(index, "its beginning is written differently once later turns follow")

    def _given_since(self, before: int, index: int) -> str:
        """What the model is given between the words of message *before* and its turn."""
        earlier = self._messages[:index]
        earlier[before] = _reworded(earlier[before], self._mark)
        return self._rest(before, self._template.render(earlier, generation_prompt=True))

    def _end(self, index: int, words: int) -> int:
        """Where the turn is closed: after its end-of-turn token and the line break that goes with it."""
        if index == len(self._messages) - 1:
            return len(self.text.rstrip(" "))
        if self._messages[index + 1]["role"] == "tool":
            answer = self._words_of(index + 1)
            if answer is None or answer[0] < words:
                raise self._refusal(index, "the template leaves the tool's answer out, or writes it into the turn")
        closing = self._template.closing
        if not closing or not self.text.startswith(closing, words):
            closing = self._closing(index)
        end = words + len(closing)
        if not self.text.startswith(closing, words):
            raise self._refusal(index, "its end is written differently once later turns follow")
        # A template that closes no turn lets the next one's header do it: that is what the model writes to stop.
        if self._template.closing or self._messages[index + 1]["role"] == "assistant":
            return end
        return end + len(self._template.next_token(self.text, end))

    def _closing(self, index: int) -> str:
        """What follows the turn's own words where it is the last but the model is to go on."""
        turn = _reworded(self._messages[index], self._mark)
        text = self._template.render([*self._messages[:index], turn], generation_prompt=True)
        return self._rest(index, text).removesuffix(self._template.prompt).rstrip(" ")

    def _leaves_calls_out(self, index: int) -> bool:
        """Some templates write a turn's content or its calls, but not both; some write only one of several calls."""
        calls = self._messages[index].get("tool_calls")
        if not calls:
            return False
        marks = [f"{self._mark}{number:04}" for number in range(len(calls))]
        marked = [
            _reworded_calls([call], mark, rename=not _has_arguments([call]))[0]
            for call, mark in zip(calls, marks, strict=True)
        ]
        reworded = list(self._messages)
        reworded[index] = reworded[index] | {"tool_calls": marked}
        text = self._template.render(reworded)
        return any(mark not in text for mark in marks)

    def _rest(self, index: int, text: str) -> str:
        """What follows the words of message *index* in *text*, where the mark stands for them."""
        name = _only_name(self._messages[index])
        if name is None:
            return text.rpartition(self._mark)[2]
        # Unlike arguments, a name may come again: in the tool's answer.
        return text.partition(self._mark)[2].replace(self._mark, name)

    def _words_of(self, index: int) -> Span | None:
        """The stretch of the text that holds the words of message *index*; None where the template leaves them out."""
        if index not in self._words:
            self._words[index] = self._find_words(index)
        return self._words[index]

    def _find_words(self, index: int) -> Span | None:
        reworded = list(self._messages)
        reworded[index] = _reworded(reworded[index], self._mark)
        text = self._write(reworded)
        head, mark, _ = text.partition(self._mark)
        if not mark:
            return None
        rest = self._rest(index, text)
        if not self.text.endswith(rest):
            raise self._refusal(index, "what follows it depends on what it says")
        end = len(self.text) - len(rest)
        begin = len(head) if self.text.startswith(head) else shared_length(head, self.text)
        return min(begin, end), end

    def _refusal(self, index: int, reason: str) -> BadData:
        return BadData(
            f"{self._where}: messages[{index}] cannot be told apart in what the model's template writes: {reason}.",
            "Use rows with 'prompt' and 'completion' messages.",
        )


def _reworded(message: Message, mark: str) -> Message:
    """*message* with *mark* for its own words. Names, keys and empty fields stay, as templates branch on them."""
    words: Message = {field: mark for field in _WORDS if isinstance(text := message.get(field), str) and text.strip()}
    calls = message.get("tool_calls")
    if not calls:
        return message | words | {"content": mark}
    only_name = _only_name(message) is not None
    return message | words | {"tool_calls": _reworded_calls(calls, mark, rename=only_name)}


def _only_name(message: Message) -> str | None:
    """The name of the first tool call of a turn that begins with it: there is no content, and it has no argument."""
    calls = message.get("tool_calls")
    if not calls or _has_arguments(calls[:1]) or any(str(message.get(field) or "").strip() for field in _WORDS):
        return None
    return str(_function(calls[0])["name"])


def _has_arguments(calls: list[Any]) -> bool:
    return _reworded_calls(calls, "0", rename=False) != _reworded_calls(calls, "1", rename=False)


def _reworded_calls(calls: list[Any], mark: str, rename: bool) -> list[Any]:
    """*calls* with *mark* for each argument, or for the first call's name."""
    if not rename:
        return [
            _with_function(call, "arguments", _reworded_value(_function(call).get("arguments"), mark)) for call in calls
        ]
    return [_with_function(calls[0], "name", mark), *calls[1:]]


def _function(call: Any) -> Any:
    return call.get("function", call)


def _with_function(call: Any, key: str, value: Any) -> Any:
    return call | ({"function": call["function"] | {key: value}} if "function" in call else {key: value})


def _reworded_value(value: Any, mark: str) -> Any:
    if isinstance(value, dict):
        return {key: _reworded_value(item, mark) for key, item in value.items()}
    if isinstance(value, list):
        return [_reworded_value(item, mark) for item in value]
    if isinstance(value, str):
        return mark
    return int(mark) if isinstance(value, int | float) and not isinstance(value, bool) else value
