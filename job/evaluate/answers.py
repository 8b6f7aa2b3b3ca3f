"""The base model and the adapter on the same held-out prompts, and how good their answers are."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from job.answers import Compared, scored
from job.evaluate.generate import generate
from job.evaluate.load import Tuned
from job.events import EventLog
from job.records import Answer, HeldOutRow
from job.spec import JobSpec


def compare(
    spec: JobSpec,
    model: Tuned,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[HeldOutRow],
    log: EventLog,
) -> Compared:
    """Answers to *rows* of *model* and of its base, scored; *log* hears how many are done."""
    prompts, count = [row.input_ids for row in rows], 2 * len(rows)

    def tell(before: int, done: int) -> None:
        log.write("answering", answers=before + done, of=count)

    tell(0, 0)
    with model.base() as below:
        base = generate(below, tokenizer, prompts, spec.eval_max_new_tokens, lambda done: tell(0, done))
    tuned = generate(model.model, tokenizer, prompts, spec.eval_max_new_tokens, lambda done: tell(len(rows), done))
    answers = tuple(
        Answer(prompt=row.prompt, reference=row.reference, base=before, tuned=after)
        for row, before, after in zip(rows, base, tuned, strict=True)
    )
    return scored(spec, answers)
