"""``report.html``: what it says, that it needs nothing else, and that whatever it shows stays text."""

import math
from html.parser import HTMLParser
from pathlib import Path

import pytest

from job.environment import load_spec
from job.records import LogEntry, PreviewPiece, PreviewRow, SampleAnswer, Score
from job.report.write import write_reports
from job.rundir import RunDir
from tests.report import example, page_of, page_with, prepared, result, row

HUGE = "word " * 200_000  # 1 MB
EMPTY = {"rows": (), "scores": (), "answers": (), "samples": (), "curve": ()}


class Outline(HTMLParser):
    """What a browser makes of a page: its tags with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def shape(self) -> list[tuple[str, tuple[str, ...]]]:
        return [(tag, tuple(attrs)) for tag, attrs in self.tags]

    @property
    def sections(self) -> list[str]:
        return [str(attrs["id"]) for tag, attrs in self.tags if tag == "section"]


def steps_of(values: list[float], name: str = "loss", every: int = 10) -> tuple[LogEntry, ...]:
    return tuple(LogEntry(step=every * index, values={name: value}) for index, value in enumerate(values, 1))


def entries(page: str) -> str:
    """The texts of *page*, each run of white space and each tag between them one blank."""
    return " ".join(" ".join(Outline(page).texts).split())


def test_the_head_says_what_was_trained_on_what_whether_it_worked_and_what_it_took():
    said = entries(page_of())

    for fact in (
        "Llama-3.1-8B on gsm8k", "finished", "SFT with LoRA on 7,099 rows, 3,000 steps, 1 × NVIDIA H100 80GB HBM3",
        "Evaluation loss fell from 1.214 to 0.4779 (-61%) on 374 rows that were not trained on.",
        "numeric_answer rose from 21.0% to 58.0% on held-out rows.", "Time 11m34s in 2 attempts, 8m32s of training",
        "Cost 0.48 0.19 GPU hours", "Peak GPU memory 29.2 GiB",
    ):  # fmt: skip
        assert fact in said


def test_everything_that_is_known_has_its_section():
    whole, bare = Outline(page_of()), Outline(page_of(**EMPTY))

    always = ["curves", "data", "plan", "time", "settings", "origin"]
    assert whole.sections == ["curves", "answers", "samples", *always[1:]]
    assert bare.sections == always
    for outline in (whole, bare):
        anchors = [attrs["href"] for tag, attrs in outline.tags if tag == "a"]
        assert anchors == [f"#{name}" for name in outline.sections]
    assert "as the model sees them" in whole.text
    assert "as the model sees them" not in bare.text


def test_the_page_asks_for_nothing_and_runs_nothing():
    page = page_of()
    outline = Outline(page)

    policy = next(attrs["content"] for tag, attrs in outline.tags if attrs.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    for tag, attrs in outline.tags:
        assert tag not in ("script", "link", "img", "iframe", "object", "embed", "base", "form", "image", "use")
        assert not {name for name in attrs if name == "src" or name.startswith(("on", "xlink"))}
        assert attrs.get("href", "#").startswith("#")
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


HOSTILE = pytest.mark.parametrize(
    "text",
    [
        "<script>window.hostile = 1</script>", "</pre></textarea></style></title><h1>",
        '"><img src=x onerror="window.hostile = 1">', "' onmouseover='window.hostile = 1", "<!-- ", "]]>",
        "<plaintext>", "{{ 7 * 7 }}{% raw %}", "&lt;b&gt;&amp;", "javascript:alert(1)", "<svg/onload=1>",
    ],
)  # fmt: skip


@HOSTILE
def test_markup_from_outside_stays_text_wherever_it_stands(text):
    harmless, hostile = Outline(page_with("harmless")), Outline(page_with(text))

    assert hostile.shape == harmless.shape
    assert hostile.text.count(text) >= harmless.text.count("harmless") - 4  # both titles show the last part of two URIs


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\0b", "a⟨U+0000⟩b"),
        ("a\u202eb", "a⟨U+202E⟩b"),  # turns the rest of the line around
        ("a\u200bb\ufeff", "a⟨U+200B⟩b⟨U+FEFF⟩"),
        ("a\ud800b", "a⟨U+D800⟩b"),  # half of a pair, which UTF-8 cannot hold
        ("a\x1b[31mb", "a⟨U+001B⟩[31mb"),
        ("a\r\nb", "a⟨U+000D⟩\nb"),
        ("a\u2028b\u0085", "a⟨U+2028⟩b⟨U+0085⟩"),
        ("\n\n  a\tb\n", "\n\n  a\tb\n"),
        ("👩\u200d💻 ✌️ 🏳️\u200d🌈", "👩\u200d💻 ✌️ 🏳️\u200d🌈"),
        ("می\u200cشود שלום", "می\u200cشود שלום"),
        ("汉字 é e\u0301", "汉字 é e\u0301"),
    ],
)
def test_what_cannot_be_seen_is_made_visible_and_writing_is_left_alone(text, shown):
    page = page_with(text)

    assert page.encode("utf-8").decode() == page
    assert f'<pre class="text" dir="auto" tabindex="0">\n<mark>{shown}</mark></pre>' in page


@pytest.mark.parametrize("secret", ["hf_" + "a" * 34, "AKIA" + "A" * 16])
def test_what_looks_like_a_credential_is_masked_in_rows_and_answers(secret):
    assert secret not in page_with(f"export TOKEN={secret}")


def test_credentials_of_the_environment_are_not_in_the_page():
    env = {
        "JOB_MODEL": "org/base", "JOB_DATASET_URI": "org/rows", "JOB_OUTPUT_URI": "/out", "HF_TOKEN": "hub-secret",
        "AWS_SECRET_ACCESS_KEY": "aws-secret", "WANDB_API_KEY": "wandb-secret",
    }  # fmt: skip

    page = page_of(spec=load_spec(env))

    assert "org/rows" in page
    assert not {value for name, value in env.items() if not name.startswith("JOB_") and value in page}


def test_a_row_of_a_megabyte_is_cut_in_its_middle_and_says_so():
    page = page_of(rows=(row(f"the beginning {HUGE} the end"),) * 50)

    assert len(page.encode()) < 1_000_000
    assert "characters left out" in page
    assert "the beginning" in page
    assert "the end&lt;|eot_id|&gt;</mark>" in page


def test_a_conversation_of_a_thousand_turns_shows_its_first_and_its_last():
    pieces = [PreviewPiece(text=f"turn {turn}.", trained=turn % 2 == 1) for turn in range(1000)]
    page = page_of(rows=(PreviewRow(where="a.jsonl:1", tokens=9, trained_tokens=5, pieces=tuple(pieces)),))

    assert "turn 0.<mark>turn 1.</mark>" in page
    assert "988 pieces left out" in page
    assert "<mark>turn 999.</mark></pre>" in page


def test_the_first_answers_are_shown_and_the_rest_is_counted():
    page = page_of()

    assert "The first 12 of 100, not picked." in page
    assert page.count(">Reference answer<") == 12


def test_samples_stand_under_their_prompt_by_step():
    pairs = [(step, prompt) for step in (10, 20) for prompt in ("b?", "a?")]
    samples = tuple(SampleAnswer(step=step, prompt=prompt, answer=f"{prompt}{step}") for step, prompt in pairs)
    said = entries(page_of(samples=samples))

    assert "Prompt b? After step 10 b?10 After step 20 b?20 Prompt a? After step 10 a?10 After step 20 a?20" in said


@pytest.mark.parametrize("losses", [[], [0.5], [math.nan], [0.5, math.nan, math.inf]])
def test_a_run_that_logged_next_to_nothing_has_a_page(losses):
    page = page_of(result=result(history=steps_of(losses), eval_history=()), prepared=prepared(lengths=(), tokens=0))

    lost = sum(not math.isfinite(loss) for loss in losses)
    drawn = len(losses) > lost
    assert ("<figure>" in page) == drawn
    assert ("Nothing was logged." in page) == (not drawn)
    assert (f"{lost} value" in page) == (drawn and lost > 0)


@pytest.mark.parametrize(
    ("held_out", "scores", "said"),
    [
        (False, (), "No rows were held out, so this does not say how the model does on new ones."),
        (
            False,
            (Score(scorer="contains", base=0.5, tuned=0.4),),
            "contains fell from 50.0% to 40.0% on held-out rows.",
        ),
        (True, (), "Evaluation loss was not measured."),
    ],
)
def test_a_run_without_evaluation_loss_says_what_is_not_known(held_out, scores, said):
    rows = prepared() if held_out else prepared().model_copy(update={"eval": None})
    page = entries(page_of(result=result(eval_history=()), prepared=rows, scores=scores))

    assert said in page
    assert ("No rows were held out" in page) == (not held_out and not scores)


def test_an_evaluation_that_is_no_number_is_no_success():
    said = entries(page_of(result=result(eval_history=steps_of([1.2, math.nan], "eval_loss", 1500))))

    assert "Evaluation loss: 1.2 before training, nan after it." in said


@pytest.mark.parametrize(
    ("losses", "sentence", "tone"),
    [
        ([1.0, 0.5], "Evaluation loss fell from 1 to 0.5 (-50%)", "good"),
        ([1.0, 1.5], "Evaluation loss rose from 1 to 1.5 (+50%)", "bad"),
        ([1.0, 1.00001], "Evaluation loss stayed at 1 ", "plain"),
    ],
)
def test_the_page_does_not_call_a_worse_model_better(losses, sentence, tone):
    page = page_of(result=result(eval_history=steps_of(losses, "eval_loss", 1500)))

    assert f'<li class="{tone}">{sentence}' in page


def test_a_long_history_is_thinned_but_not_of_its_spike():
    losses = [0.5 + 0.001 * (index % 7) for index in range(50_000)]
    losses[31_233] = 17.25
    page = page_of(result=result(steps=50_000, history=steps_of(losses, every=1)))

    assert len(page.encode()) < 1_000_000
    assert "step 31,234: loss 17.25" in page


def test_the_step_from_which_a_run_went_on_is_marked():
    assert 'class="marker' in page_of(**EMPTY, prepared=prepared(lengths=()))
    begun = result(resumed_at_step=0)
    assert 'class="marker' not in page_of(**EMPTY, prepared=prepared(lengths=()), result=begun)


def test_an_unfinished_run_says_so_first():
    said = entries(page_of(result=result(status="stopped", total_steps=4000)))

    assert "Ended early, after step 3,000 of 4,000." in said
    assert "partial" in said


def test_a_rejected_adapter_is_said_to_be_so_and_why():
    page = page_of(set_apart="rejected", objection="A layer is missing.")

    assert "Rejected: A layer is missing." in entries(page)
    assert "Ended early" not in page


def test_a_run_on_a_cpu_without_evaluation_has_a_page():
    made = example()
    plan = made.plan.model_copy(update={"memory": None, "forecast": None, "use_gpu": False, "alternatives": ()})
    bare = result(eval_history=(), peak_gpu_memory_gib=None, timed_steps=0)
    said = entries(page_of(**EMPTY, plan=plan, result=bare))

    assert "3,000 steps, CPU" in said
    assert "Memory of one GPU" not in said
    assert "Tokens per second" not in said


def test_settings_are_shown_as_the_environment_would_have_them_and_only_those_that_differ():
    page = page_of()
    changed = entries(page[page.index('id="settings"') : page.index("All settings")])

    assert "JOB_COLUMNS prompt=question,completion=answer" in changed
    assert "JOB_LORA_R 32" in changed
    assert "JOB_SEED" not in changed
    assert "JOB_SEED 42" in entries(page)


def test_the_page_shows_the_plan_with_its_reasons_and_what_else_could_have_been():
    made = example()
    said = entries(page_of())

    for reason in made.plan.reasons.values():
        assert reason in said
    for other in made.plan.alternatives:
        assert other.verdict in said
    for item in made.plan.memory.items:
        assert f"{item.name} {item.gib:.2f} {item.why}" in said


def test_figures_that_another_method_logs_get_a_curve():
    values = {"loss": 0.6, "rewards/margins": 0.5, "rewards/accuracies": 0.8, "of no interest": 1.0}
    page = page_of(result=result(history=(LogEntry(step=10, values=values),)))

    assert "Reward margin" in page
    assert "Chosen above rejected" in page
    assert "of no interest" not in page


def test_the_same_run_makes_the_same_bytes():
    assert page_of() == page_of()


def test_the_page_is_written_beside_the_other_reports(tmp_path: Path):
    run_dir = RunDir(tmp_path)
    run_dir.adapter.mkdir()

    write_reports(example(), ("org/tuned", ""), run_dir, run_dir.metrics)

    assert (tmp_path / "report.html").read_text("utf-8") == page_of()


def test_a_run_that_ended_early_says_which_steps_adapter_it_is():
    shown = entries(page_of(result=result(published_step=2500, stopped_early=True)))

    assert "Stopped after step 3,000, as evaluations got no better." in shown
    assert "This is the adapter of step 2,500 of 3,000, which evaluated best." in shown
    assert "which evaluated best" not in entries(page_of())
