"""The chat template that ``JOB_CHAT_TEMPLATE`` names: a built-in one, a file, or that of another model's tokenizer."""

import json
from typing import Any

from jinja2 import TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from job.chat_template import BUILT_IN, SETTING
from job.errors import BadSpec, JobError, NotFound
from job.records import ChatTemplateChoice
from job.storage import Store, open_store
from job.uri import parse_uri

# Bytes. The longest published templates have about 20 KiB; a vocabulary of 260,000 tokens makes 35 MiB of JSON.
_TEMPLATE_LIMIT = 2**20
_TOKENIZER_LIMIT = 128 * 2**20
_FILE, _CONFIG, _TOKENIZER = "chat_template.jinja", "tokenizer_config.json", "tokenizer.json"


def find_chat_template(text: str) -> ChatTemplateChoice:
    """The template that *text* names, read and found to be Jinja; of a model, with its tokens that the template writes.

    Raises:
        NotFound, AccessDenied, NetworkExhausted: it cannot be read, or there is none.
        BadSpec: it is too large, empty or not Jinja.
    """
    if text in BUILT_IN:
        return BUILT_IN[text]
    try:
        source, tokens = _read(open_store(parse_uri(text, "model")), is_file=text.endswith(".jinja"))
        _check(source)
    except JobError as error:
        raise type(error)(f"{SETTING}={text}: {error.cause}", error.fix) from error
    except (AttributeError, KeyError, TypeError) as error:
        raise BadSpec(
            f"{SETTING}={text}: its tokenizer's files are not as transformers writes them ({error!r}).",
            "Save it once with AutoTokenizer.from_pretrained(…).save_pretrained(…), or name a .jinja file.",
        ) from error
    mentioned = {token: special for token, special in tokens.items() if token.strip() and token in source}
    return ChatTemplateChoice(name=text, reason=SETTING, source=source, added_tokens=mentioned)


def _read(store: Store, *, is_file: bool) -> tuple[str, dict[str, bool]]:
    """The template, and the tokens of the tokenizer beside it: text -> whether it is special."""
    sizes = {file.path: file.size for file in store.snapshot().files}
    if is_file:
        (name,) = sizes if len(sizes) == 1 else [""]
        if not name:
            raise NotFound("it is a folder.", "Name one .jinja file, or a folder whose name ends otherwise.")
        return _text(store, name, sizes[name], _TEMPLATE_LIMIT), {}
    source = _text(store, _FILE, sizes[_FILE], _TEMPLATE_LIMIT) if _FILE in sizes else ""
    if not source and _CONFIG in sizes:
        source = _default(_json(store, _CONFIG, sizes).get("chat_template"))
    if not source:
        raise NotFound(
            f"there is neither {_FILE} nor a chat_template in {_CONFIG}.",
            f"Name a model that has a chat template, a .jinja file, {' or '.join(BUILT_IN)}.",
        )
    added = _json(store, _TOKENIZER, sizes).get("added_tokens", []) if _TOKENIZER in sizes else []
    return source, {token["content"]: token["special"] for token in added}


def _default(template: Any) -> str:
    """The template of a tokenizer's configuration, or the one called default of several."""
    if isinstance(template, list):
        template = {one["name"]: one["template"] for one in template}.get("default")
    return template if isinstance(template, str) else ""


def _json(store: Store, name: str, sizes: dict[str, int]) -> dict[str, Any]:
    try:
        content = json.loads(_text(store, name, sizes[name], _TOKENIZER_LIMIT))
    except ValueError as error:
        raise BadSpec(f"{name} is not valid JSON ({error}).", "Upload it again, or name a .jinja file.") from error
    if not isinstance(content, dict):
        raise BadSpec(f"{name} is no JSON object.", "Upload it again, or name a .jinja file.")
    return content


def _text(store: Store, name: str, size: int, limit: int) -> str:
    if size > limit:
        raise BadSpec(f"{name} has {size:,} bytes; at most {limit:,} are read.", "Name the template's own file.")
    try:
        return store.read(name, 0, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSpec(f"{name} is not UTF-8 text (byte {error.start}).", "Save it as UTF-8.") from error


def _check(source: str) -> None:
    """Raises:
    BadSpec: *source* is no template that transformers can compile.
    """
    if not source.strip():
        raise BadSpec("the template is empty.", f"Name another, {' or '.join(BUILT_IN)}.")
    if len(source) > _TEMPLATE_LIMIT:
        raise BadSpec(f"the template has {len(source):,} characters; at most {_TEMPLATE_LIMIT:,} are read.")
    environment = ImmutableSandboxedEnvironment(extensions=[_Generation, loopcontrols])
    try:
        # Not compiled: that works constant expressions out, however large their values.
        tree = environment.parse(source)
    except TemplateSyntaxError as error:
        raise BadSpec(f"it is not valid Jinja (line {error.lineno}: {error.message}).", "Mend that line.") from error
    except RecursionError as error:
        raise BadSpec("it is nested too deeply.", f"Name another, {' or '.join(BUILT_IN)}.") from error
    for used in tree.find_all(nodes.Filter):
        if used.name not in environment.filters:
            raise BadSpec(f"it is not valid Jinja (line {used.lineno}: no filter is named {used.name!r}).", "Mend it.")


class _Generation(Extension):
    """Lets ``{% generation %}`` be read, which is not Jinja's own but transformers'."""

    tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
