"""What a run is trained on stays the same for all its attempts: the rows, the model, the commits of the Hub."""

import json
import os
import shutil
from datetime import datetime
from pathlib import Path

import pytest

from job.errors import OutputTaken
from job.inputs import find_dataset, find_model
from job.inspection import Inputs
from job.output import Output
from job.pins import decide, refuse_changes
from job.prepare.story import CHUNK, prepare
from job.records import Decided, HardwareFacts, Prepared, PrepareTask
from job.spec import JobSpec
from tests.unit.conftest import CHATML, MakeTokenizer
from tests.unit.test_checkpoints import plan
from tests.unit.test_facts import make_model, write_safetensors
from tests.unit.test_prepare import CHAT, lines, task

SPEC = JobSpec(model="org/base", dataset_uri="org/rows", output_uri=("/out",))
DATED = "{{ strftime_now('%d %b %Y') + '\n' }}" + CHATML
ROWS = CHUNK * 9  # more than a chunk for each of several processes


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = make_model(tmp_path / "base", rope_theta=10000.0)
    write_safetensors(folder / "model.safetensors", {"a": [4, 8], "b": [3]})
    return folder


def settled(folder: Path, base: Path, job: PrepareTask) -> Decided:
    """What an attempt settles that prepares the rows of *job* in *folder*."""
    folder.mkdir()
    prepared: Prepared = prepare(job, folder)
    inputs = Inputs(HardwareFacts(), find_model(str(base)), None, (find_dataset(str(job.train_files[0].path)),), None)
    return decide(plan("single"), inputs, folder, prepared)


@pytest.mark.parametrize("packing", [False, True])
def test_the_same_rows_are_the_same_whatever_the_number_of_processes(packing, tmp_path, base, make_tokenizer):
    job = task(tmp_path, make_tokenizer(), lines(ROWS), eval_fraction=0.2, packing=packing)

    one, *others = (
        settled(tmp_path / str(processes), base, job.model_copy(update={"processes": processes}))
        for processes in (1, 2, 5)
    )

    assert others == [one, one]


@pytest.mark.parametrize(
    "content",
    [
        lines(ROWS + 1),
        lines(ROWS - 1),
        "".join(reversed(lines(ROWS).splitlines(keepends=True))),
        lines(ROWS).replace("row 7", "row_7"),
    ],
    ids=["one more", "one less", "another order", "another word"],
)
def test_other_rows_are_others(content, tmp_path, base, make_tokenizer):
    before = settled(tmp_path / "before", base, task(tmp_path, make_tokenizer(), lines(ROWS)))

    now = settled(tmp_path / "now", base, task(tmp_path, make_tokenizer(), content))

    assert now.rows != before.rows
    assert now.model == before.model


def test_a_template_that_asks_for_the_date_gets_that_of_the_first_attempt(tmp_path, base, make_tokenizer):
    job = task(tmp_path, make_tokenizer(DATED), json.dumps({"messages": CHAT}), max_length=512)
    long_ago = job.model_copy(update={"template_time": datetime(2020, 2, 29, 12)})

    first = settled(tmp_path / "first", base, long_ago)
    later = settled(tmp_path / "later", base, job.model_copy(update={"template_time": first.template_time}))

    assert first.template_time == datetime(2020, 2, 29, 12)
    assert later == first
    assert settled(tmp_path / "today", base, job).rows != first.rows


@pytest.mark.parametrize("row", [{"messages": CHAT}, {"text": "no conversation"}])
def test_the_time_is_settled_only_where_a_row_may_hold_it(row, tmp_path, base, make_tokenizer: MakeTokenizer):
    template = CHATML if "messages" in row else DATED

    job = task(tmp_path, make_tokenizer(template), json.dumps(row), max_length=512)

    decided = settled(tmp_path / "rows", base, job)

    assert decided.template_time is None


def test_a_copy_of_a_model_on_another_machine_is_the_same_model(base, tmp_path):
    shutil.copytree(base, tmp_path / "copy", copy_function=shutil.copyfile)
    os.utime(tmp_path / "copy" / "model.safetensors", (0, 0))

    assert find_model(str(tmp_path / "copy")).pin == find_model(str(base)).pin


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: write_safetensors(folder / "model.safetensors", {"a": [8, 4], "b": [3]}),
        lambda folder: write_safetensors(folder / "model.safetensors", {"a": [4, 8], "b": [4]}),
        lambda folder: make_model(folder, rope_theta=50000.0),
    ],
    ids=["another shape", "another size", "another configuration"],
)
def test_a_folder_with_another_model_is_another(change, base):
    before = find_model(str(base)).pin

    change(base)

    assert find_model(str(base)).pin != before


def test_other_weights_in_a_bucket_are_another_model_though_all_sizes_are_the_same(base, s3_server):
    for path in base.iterdir():
        s3_server.put("bucket", f"base/{path.name}", path.read_bytes())
    weights = (base / "model.safetensors").read_bytes()
    s3_server.put("bucket", "base/model.safetensors", weights + b"\0")
    before = find_model("s3://bucket/base").pin
    assert find_model("s3://bucket/base").pin == before

    s3_server.put("bucket", "base/model.safetensors", weights + b"\1")

    assert find_model("s3://bucket/base").pin != before


def test_what_was_settled_on_the_hub_is_used_although_main_has_moved(base, hub_server):
    model = {path.name: path.read_bytes() for path in base.iterdir()}
    hub_server.add("org/it", model)
    hub_server.add("datasets/org/it", {"train.jsonl": b'{"text": "a"}\n'})
    names = ("org/it", "hf://datasets/org/it/*.jsonl")  # a name that a model and a dataset have in common
    spec = JobSpec(model=names[0], dataset_uri=names[1], output_uri=("/out",))
    before = Inputs(HardwareFacts(), find_model(spec.model), None, (find_dataset(spec.dataset_uri[0]),), None)
    hub_server.repositories["org/it"].commit("main", {"config.json": b"{}"}, "another model")
    hub_server.repositories["datasets/org/it"].commit("main", {"train.jsonl": b""}, "no rows")

    model_now = find_model(spec.model, None, before.revisions)
    rows_now = find_dataset(spec.dataset_uri[0], before.revisions)

    assert (model_now.pin, model_now.facts.revision) == (before.model.pin, before.model.facts.revision)
    assert (rows_now.identity, rows_now.revision) == (before.train[0].identity, before.train[0].revision)
    assert model_now.name == "org/it"
    assert set(before.revisions) == {"hf://org/it", "hf://datasets/org/it"}


DECIDED = Decided(quantization="none", packing=False, model="m", rows="r")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"model": "n"},
            "JOB_MODEL=org/base has changed: it is not what the checkpoint of step 200 in JOB_OUTPUT_URI=",
        ),
        ({"rows": "s"}, "JOB_DATASET_URI=org/rows has changed: it does not give the rows that the checkpoint of step"),
    ],
)
def test_a_checkpoint_of_other_rows_or_another_model_is_not_gone_on_from(change, words):
    with pytest.raises(OutputTaken, match=words) as refused:
        refuse_changes(SPEC, DECIDED, DECIDED.model_copy(update=change), 200)
    assert refused.value.fix.startswith("Restore it as it was")


def test_all_that_rows_are_made_of_is_named_where_they_have_changed():
    spec = SPEC.model_copy(update={"eval_dataset_uri": "org/held-out", "chat_template": "org/other"})
    named = "JOB_DATASET_URI=org/rows or JOB_EVAL_DATASET_URI=org/held-out or JOB_CHAT_TEMPLATE=org/other has changed"

    with pytest.raises(OutputTaken, match=named):
        refuse_changes(spec, DECIDED, DECIDED.model_copy(update={"rows": "s"}), 200)


def test_what_an_earlier_version_has_not_settled_is_not_known_and_refuses_nothing(tmp_path):
    output = Output(str(tmp_path))
    output.mark(SPEC)
    run = json.loads((tmp_path / "run.json").read_text()) | {"decided": {"quantization": "nf4", "packing": True}}
    (tmp_path / "run.json").write_text(json.dumps(run))

    before = output.decided(SPEC)

    assert before == Decided(quantization="nf4", packing=True)
    refuse_changes(SPEC, before, DECIDED, 200)


def test_what_is_settled_is_read_back_as_it_was(tmp_path):
    output = Output(str(tmp_path))
    all_of_it = DECIDED.model_copy(
        update={"revisions": {"hf://org/base": "c0ffee"}, "template_time": datetime(2026, 1, 2, 3, 4, 5, 678)}
    )

    output.mark(SPEC, all_of_it)

    assert output.decided(SPEC) == all_of_it


@pytest.mark.parametrize("content", [None, b"", b"[]", b'{"decided": 1}', b"\xff"])
def test_a_missing_or_foreign_record_has_settled_nothing(content, tmp_path):
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)

    assert Output(str(tmp_path)).decided(SPEC) is None
