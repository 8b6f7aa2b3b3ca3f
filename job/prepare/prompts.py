"""Rows as prompts that a model is to answer itself, with the answer that is right where a row has one."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from job.errors import BadData
from job.prepare.batch import Batch, Candidate, SplitBatch, split_batch
from job.prepare.encode import IGNORED
from job.prepare.formats import Answer, Chat, Reading, Text, oddities, read_prompt, to_answer
from job.prepare.mix import content_hash, copies, is_held_out
from job.prepare.read import Row, to_row
from job.prepare.shape import Shaped
from job.prepare.tokenize import PromptTokens, RowTokenizer
from job.records import Format, PrepareTask, PromptSettings
from job.scores import ScoreOptions, unusable

# What stands in the Arrow files beside the tokens: the prompt's text as the model reads it, the right answer, and, of a
# conversation, its messages as JSON, for a reward model with a chat template of its own.
COLUMNS = ("prompt", "reference", "messages")


@dataclass(frozen=True)
class Prompt:
    """What the model is to answer: a conversation up to its turn, or a text. *reference* is the row's own answer."""

    example: Answer
    reference: str | None


def to_prompt(row: Row, format_: Format, reading: Reading) -> Prompt:
    """*row* as a prompt.

    Raises:
        BadData: a column is missing or not of the expected kind.
    """
    if format_ == "prompt-only":
        return Prompt(read_prompt(row, reading), None)
    return prompt_of(row.where, to_answer(row, format_, reading))


def prompt_of(where: str, example: Answer) -> Prompt:
    """What *example*, which stands at *where*, is an answer to, and that answer.

    Raises:
        BadData: it has no prompt.
    """
    if isinstance(example, Text):
        given = example.prompt or ""
        return Prompt(Text(given, given), example.text.removeprefix(given))
    turns = len(example.messages) if example.prompt_turns is None else example.prompt_turns
    if example.prompt_turns is None and example.messages[-1]["role"] == "assistant":
        turns -= 1
    if not turns:
        raise BadData(f"{where}: the conversation is one answer without a prompt.")
    answers = [message.get("content") for message in example.messages[turns:]]
    return Prompt(replace(example, messages=example.messages[:turns]), answers[-1] if answers else None)


class _Accepted(NamedTuple):
    where: str
    prompt: Prompt
    content: int
    is_eval: bool
    times: int


@dataclass(frozen=True)
class PromptWorker:
    """Reads, understands, renders and tokenizes prompts; one that leaves no room for an answer is a bad row."""

    task: PrepareTask
    prompts: PromptSettings
    reading: Reading
    tokenizer: RowTokenizer

    def __call__(self, candidates: Sequence[Candidate]) -> Batch:
        """Raises:
        BadData: the tokenizer or its chat template cannot serve any row.
        """
        outcomes = [self._accept(candidate) for candidate in candidates]
        accepted = [row for row in outcomes if isinstance(row, _Accepted)]
        tokens = iter(self.tokenizer.prompts([(row.where, row.prompt.example) for row in accepted]))
        pairs = [
            (row, self._fits(row, next(tokens))) if isinstance(row, _Accepted) else (None, row) for row in outcomes
        ]
        good = [(row, prompt) for row, prompt in pairs if row and isinstance(prompt, PromptTokens)]
        chats = [row.prompt.example for row, _ in good if isinstance(row.prompt.example, Chat)]
        return Batch(
            problems=[problem for _, problem in pairs if isinstance(problem, BadData)],
            oddities=Counter(odd for chat in chats for odd in oddities(chat) if odd != "ends without an answer"),
            conversations=len(chats),
            train=_split(self.task.method, [pair for pair in good if not pair[0].is_eval]),
            eval=_split(self.task.method, [pair for pair in good if pair[0].is_eval]),
        )

    def _accept(self, candidate: Candidate) -> _Accepted | BadData | None:
        """The candidate as a prompt, the problem with it, or None where the source's weight leaves it out."""
        row = to_row(candidate.record)
        if isinstance(row, BadData):
            return row
        try:
            prompt = to_prompt(row, candidate.format, self.reading)
        except BadData as problem:
            return problem
        options = ScoreOptions(marker=self.prompts.marker)
        for name in self.prompts.scores:
            if why := unusable(name, prompt.reference, options):
                return BadData(f"{row.where}: the reward {name} cannot be had, as {why}.", _FIX)
        content = content_hash(row, self.task.seed)
        is_eval = candidate.held_out or is_held_out(content, self.task.eval_fraction)
        times = 1 if is_eval else copies(row, candidate.weight, self.task.seed)
        return _Accepted(row.where, prompt, content, is_eval, times) if times else None

    def _fits(self, row: _Accepted, tokens: PromptTokens | BadData) -> PromptTokens | BadData:
        most = self.task.max_length - self.prompts.max_completion_length
        if isinstance(tokens, BadData) or len(tokens.input_ids) <= most:
            return tokens
        return BadData(
            f"{row.where}: the prompt has {len(tokens.input_ids):,} tokens, more than the {most:,} that "
            f"JOB_MAX_LENGTH={self.task.max_length} leaves beside "
            f"JOB_MAX_COMPLETION_LENGTH={self.prompts.max_completion_length}.",
            "Raise JOB_MAX_LENGTH, or shorten the prompt.",
        )


_FIX = "Give rows with an answer (JOB_COLUMNS=prompt=question,completion=answer), or another reward in JOB_REWARDS."


def _split(method: str, rows: Sequence[tuple[_Accepted, PromptTokens]]) -> SplitBatch:
    drawn = [(row, prompt) for row, prompt in rows for _ in range(row.times)]
    batch = split_batch(method, [_shaped(prompt) for _, prompt in drawn], [row.content for row, _ in rows])
    return replace(batch, texts=[(prompt.text, row.prompt.reference, prompt.messages) for row, prompt in drawn])


def _shaped(prompt: PromptTokens) -> Shaped:
    """Nothing of a prompt is learned."""
    ids = prompt.input_ids
    return Shaped((ids, np.full_like(ids, IGNORED)), tokens=len(ids), trained=0, longest=len(ids))
