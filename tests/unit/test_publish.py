"""Outputs: whose a place is, what is published, and in which order."""

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from job.errors import OutputTaken, UploadIncomplete
from job.output import REJECTED, Output
from job.publish import copy_to_secondaries, publish, publish_apart
from job.records import AdapterProof, AddedTokens, CurveFinding, Decided, GateFigures, HardwareFacts, Plan
from job.report.metrics import (
    AttemptMetrics,
    BaseModelMetrics,
    DataMetrics,
    EvalMetrics,
    Metrics,
    TokenizerMetrics,
    TrainMetrics,
)
from job.report.model_card import model_card
from job.rundir import RunDir, write_bytes
from job.spec import JobSpec


def spec_for(*outputs: Path, **settings: object) -> JobSpec:
    return JobSpec(model="org/base", dataset_uri="org/rows", output_uri=tuple(map(str, outputs)), **settings)


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    """A finished run, with a file among the adapter's that must never leave."""
    made = RunDir(tmp_path / "run")
    for name in ("adapter_model.safetensors", "adapter_config.json", "README.md", "training_args.bin"):
        write_bytes(made.adapter / name, name.encode())
    for report in (made.metrics, made.dataset_report, made.report):
        write_bytes(report, b"{}")
    return made


def publish_to(spec: JobSpec, run_dir: RunDir) -> list[Output]:
    outputs = [Output(text) for text in spec.output_uri]
    outputs[0].mark(spec)
    publish(outputs, run_dir, spec, attempt=1)
    return outputs


def test_the_manifest_lists_every_file_with_its_size_and_checksum(tmp_path, run_dir):
    spec = spec_for(tmp_path / "out")

    publish_to(spec, run_dir)

    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["fingerprint"] == spec.fingerprint
    assert "adapter/adapter_model.safetensors" in manifest["files"]
    for name, facts in manifest["files"].items():
        data = (tmp_path / "out" / name).read_bytes()
        assert facts == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_training_arguments_are_never_published(tmp_path, run_dir):
    publish_to(spec_for(tmp_path / "out"), run_dir)

    assert not list((tmp_path / "out").rglob("training_args.bin"))


def test_a_finished_result_is_recognised_by_the_same_settings_only(tmp_path, run_dir):
    spec = spec_for(tmp_path / "out")
    (output,) = publish_to(spec, run_dir)

    assert output.manifest(spec) is not None
    with pytest.raises(OutputTaken, match="the result of a run with other settings: JOB_SEED was 42 and is 7"):
        output.manifest(spec_for(tmp_path / "out", seed=7))


def test_a_result_that_was_tampered_with_is_not_taken_for_finished(tmp_path, run_dir):
    spec = spec_for(tmp_path / "out")
    (output,) = publish_to(spec, run_dir)
    (tmp_path / "out" / "adapter" / "adapter_config.json").unlink()

    with pytest.raises(OutputTaken, match=r"adapter/adapter_config\.json is not as manifest\.json says"):
        output.manifest(spec)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": []}', "not json"])
def test_a_manifest_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)

    with pytest.raises(OutputTaken, match="something else"):
        Output(str(tmp_path)).manifest(spec_for(tmp_path))


def test_a_place_with_files_of_the_same_name_is_refused_and_with_other_files_is_not(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert Output(str(tmp_path)).manifest(spec_for(tmp_path)) is None

    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(OutputTaken, match="no run of this job made"):
        Output(str(tmp_path)).manifest(spec_for(tmp_path))


def test_a_half_written_result_of_a_run_is_its_own(tmp_path):
    spec = spec_for(tmp_path / "out")
    Output(str(tmp_path / "out")).mark(spec)
    write_bytes(tmp_path / "out" / "adapter" / "adapter_config.json", b"{}")

    assert Output(str(tmp_path / "out")).manifest(spec) is None


def test_a_second_output_gets_a_copy_of_the_first_later(tmp_path, run_dir):
    first = spec_for(tmp_path / "a")
    both = spec_for(tmp_path / "a", tmp_path / "b")
    (output,) = publish_to(first, run_dir)

    outputs = [Output(text) for text in both.output_uri]
    filled = copy_to_secondaries(outputs, output.manifest(both), both, tmp_path / "scratch")

    assert filled == [str(tmp_path / "b")]
    assert outputs[1].manifest(both)["files"] == outputs[0].manifest(both)["files"]
    assert copy_to_secondaries(outputs, output.manifest(both), both, tmp_path / "scratch") == []


def test_a_second_output_gets_a_result_of_an_earlier_version_that_wrote_fewer_reports(tmp_path, run_dir):
    both = spec_for(tmp_path / "a", tmp_path / "b")
    publish_to(spec_for(tmp_path / "a"), run_dir)
    place = tmp_path / "a"
    (place / "report.html").unlink()
    manifest = json.loads((place / "manifest.json").read_text())
    del manifest["files"]["report.html"]
    (place / "manifest.json").write_text(json.dumps(manifest))

    filled = copy_to_secondaries([Output(text) for text in both.output_uri], manifest, both, tmp_path / "scratch")

    assert filled == [str(tmp_path / "b")]
    assert (tmp_path / "b" / "dataset_report.json").exists()


def test_a_second_output_gets_no_bytes_that_the_first_ones_manifest_does_not_vouch_for(tmp_path, run_dir):
    spec = spec_for(tmp_path / "a", tmp_path / "b")
    (output,) = publish_to(spec_for(tmp_path / "a"), run_dir)
    path = tmp_path / "a" / "adapter" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[::-1])
    outputs = [Output(text) for text in spec.output_uri]

    with pytest.raises(UploadIncomplete, match=rf"{tmp_path}/a: adapter/adapter_model\.safetensors has other bytes"):
        copy_to_secondaries(outputs, output.manifest(spec), spec, tmp_path / "scratch")
    assert not (tmp_path / "b").exists()


def put_foreign_file(place: Path, _: RunDir) -> str:
    write_bytes(place / "metrics.json", b"mine")
    return "metrics.json, which no run of this job made"


def put_other_result(place: Path, run_dir: RunDir) -> str:
    publish_to(spec_for(place, seed=7), run_dir)
    return "the result of a run with other settings: JOB_SEED was 7 and is 42"


def put_other_checkpoint(place: Path, _: RunDir) -> str:
    other = spec_for(place, seed=7)
    Output(str(place)).mark(other)
    manifest = json.dumps({"fingerprint": other.fingerprint, "files": {}})
    write_bytes(place / "checkpoints" / "step-00000020" / "manifest.json", manifest.encode())
    return "a checkpoint of a run with other settings: JOB_SEED was 7 and is 42"


OTHERS = pytest.mark.parametrize("put", [put_foreign_file, put_other_result, put_other_checkpoint])


def files_in(place: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


@OTHERS
def test_a_second_output_of_someone_else_is_found_by_a_look(put, tmp_path, run_dir):
    said = put(tmp_path / "b", run_dir)

    with pytest.raises(OutputTaken, match=said):
        Output(str(tmp_path / "b")).look(spec_for(tmp_path / "a", tmp_path / "b"))


@OTHERS
def test_a_second_output_that_became_someone_elses_meanwhile_stays_as_it_is(put, tmp_path, run_dir):
    said, before = put(tmp_path / "b", run_dir), files_in(tmp_path / "b")

    with pytest.raises(UploadIncomplete, match=said):
        publish_to(spec_for(tmp_path / "a", tmp_path / "b"), run_dir)
    assert files_in(tmp_path / "b") == before
    assert (tmp_path / "a" / "manifest.json").exists()


def test_a_second_output_that_has_the_result_already_is_no_failure(tmp_path, run_dir):
    spec = spec_for(tmp_path / "a", tmp_path / "b")
    publish_to(spec_for(tmp_path / "b"), run_dir)
    before = files_in(tmp_path / "b")

    publish_to(spec, run_dir)

    assert files_in(tmp_path / "b") == before


def test_a_result_on_the_hub_with_other_bytes_of_the_same_size_is_not_taken_for_finished(hub_server, run_dir):
    """As an attempt leaves it that finds so after the commit, or is killed before it looks."""
    hub_server.add("org/tuned", {})
    spec = JobSpec(model="org/base", dataset_uri="org/rows", output_uri=("hf://org/tuned",))
    publish_to(spec, run_dir)
    assert Output("hf://org/tuned").manifest(spec) is not None

    files = hub_server.files("org/tuned")
    damaged = files["adapter_model.safetensors"][::-1]
    hub_server.repositories["org/tuned"].commit("main", files | {"adapter_model.safetensors": damaged}, "damage")

    with pytest.raises(OutputTaken, match=r"adapter_model\.safetensors is not as manifest\.json says"):
        Output("hf://org/tuned").manifest(spec)


def test_a_second_output_that_cannot_be_written_is_named(tmp_path, run_dir):
    (tmp_path / "file").write_text("x")
    spec = spec_for(tmp_path / "a", tmp_path / "file" / "b")

    with pytest.raises(UploadIncomplete, match=r"in the first output, but not in .*/file/b"):
        publish_to(spec, run_dir)
    assert (tmp_path / "a" / "manifest.json").exists()


def metrics(uri: str, revision: str | None) -> Metrics:
    spec = spec_for(Path("/out"))
    plan = Plan(
        strategy="single", num_processes=1, precision="bf16", per_device_train_batch_size=4, use_gpu=False,
        max_length=8, gradient_accumulation_steps=4, global_batch_size=16, packing=False, gradient_checkpointing=True,
        reasons={},
    )  # fmt: skip
    return Metrics(
        schema_version=1, status="finished", graft_version="0", method="sft", adapter="lora",
        base_model=BaseModelMetrics(uri=uri, revision=revision, model_type="llama", parameters=8_030_261_248),
        tokenizer=TokenizerMetrics(chat_template="the tokenizer's own", eos_token=None, added_tokens=AddedTokens()),
        data=DataMetrics(
            uri="org/rows", revision=None, format="text", rows=10, sequences=10, tokens=100, trained_tokens=50,
            truncated_rows=0, dropped_rows=0, eval_rows=2,
        ),
        train=TrainMetrics(
            steps=3, published_step=3, stopped_early=False, epochs=1.0, loss=1.5, runtime_s=2.0, tokens=100,
            tokens_per_s=50.0, steps_per_s=1.0, peak_gpu_memory_gib=None, history=(),
        ),
        eval=EvalMetrics(loss_before=2.0, loss=1.0, perplexity=2.718, history=()),
        curve=(CurveFinding(pattern="converging", evidence="The loss falls from 2 to 1."),),
        proof=AdapterProof(trainable_parameters=1000, tensors=4, changed_tensors=4),
        plan=plan, hardware=HardwareFacts(), settings=spec.model_dump(mode="json"), phases_s={},
        attempts=AttemptMetrics(count=1, elapsed_s=60.0, gpu_hours=0.0167, cost=None, resumed_at_step=0),
        versions={"torch": "2"},
    )  # fmt: skip


def test_a_rejected_adapter_is_known_again_by_its_job_alone(tmp_path, run_dir):
    spec, other = spec_for(tmp_path / "out"), spec_for(tmp_path / "out", seed=7)
    output = Output(str(tmp_path / "out"))
    output.mark(spec)
    assert output.rejected(spec) is None
    write_bytes(run_dir.partial_metrics, b"{}")

    publish_apart(output, REJECTED, run_dir, spec, attempt=1, cause="A layer is missing.")

    assert output.rejected(spec) == "A layer is missing."
    assert output.rejected(other) is None
    assert output.manifest(spec) is None, "it is no result"


def test_the_card_of_a_hub_model_names_repository_and_commit():
    card = model_card(metrics("hf://org/base@main", "c0ffee"), "org/tuned")

    header = yaml.safe_load(card.split("---")[1])
    assert header["base_model"] == "org/base"
    assert 'from_pretrained("org/base", revision="c0ffee", dtype="auto")' in card
    assert 'PeftModel.from_pretrained(base, "org/tuned")' in card
    assert "2.0000 before, 1.0000 after" in card
    assert "| training curve | converging: The loss falls from 2 to 1. |" in card


def test_the_card_of_an_unfinished_adapter_says_so_and_loads_it_from_its_subfolder():
    unfinished = metrics("hf://org/base@main", "c0ffee").model_copy(update={"status": "partial"})

    card = model_card(unfinished, "org/tuned", "partial")

    assert "# Unfinished LoRA adapter for org/base" in card
    assert 'PeftModel.from_pretrained(base, "org/tuned", subfolder="partial")' in card
    assert 'AutoTokenizer.from_pretrained("org/tuned", subfolder="partial")' in card


def test_the_card_tells_what_the_gate_found():
    gate = GateFigures(tensors=28, learned=28, moved=1.234, apart=3.1e-6, tolerance=1e-4)
    finished = metrics("hf://org/base@main", "c0ffee")
    judged = finished.model_copy(update={"proof": finished.proof.model_copy(update={"gate": gate})})
    rejected = finished.model_copy(update={"status": "rejected", "objection": "A layer is missing."})

    said = "28 of 28 tensors learned; it moves logits by up to 1.2, and loaded anew it is within 3e-06 of training's"
    assert f"| adapter gate | {said} |" in model_card(judged, "org/tuned")
    card = model_card(rejected, "org/tuned", "rejected")
    assert "# Rejected LoRA adapter for org/base" in card
    assert "| adapter gate | A layer is missing. |" in card


def test_the_card_of_a_model_in_a_bucket_says_what_to_copy_first():
    card = model_card(metrics("s3://bucket/base", None), "s3://bucket/out/adapter")

    assert "base_model" not in yaml.safe_load(card.split("---")[1])
    assert "Copy `s3://bucket/base` to `./base` and `s3://bucket/out/adapter` to `./adapter`, then:" in card
    assert 'from_pretrained("./base", dtype="auto")' in card


def test_the_card_of_a_local_model_names_its_folder_as_given():
    card = model_card(metrics("./base", None), "./out/adapter")

    assert 'from_pretrained("./base", dtype="auto")' in card
    assert "Copy" not in card


def test_the_card_of_a_model_with_new_tokens_says_how_the_base_model_gets_them():
    plain = metrics("./base", None)
    added = AddedTokens(tokens=("<|im_end|>",), ids=(300,), resized_to=301)
    new = TokenizerMetrics(chat_template="chatml (JOB_CHAT_TEMPLATE)", eos_token="<|im_end|>", added_tokens=added)

    card = model_card(plain.model_copy(update={"tokenizer": new}), "./adapter")

    lines = card.splitlines()
    resize = next(n for n, line in enumerate(lines) if line.startswith("base.resize_token_embeddings(301)"))
    assert resize < next(n for n, line in enumerate(lines) if "PeftModel.from_pretrained" in line)
    assert "base.generation_config.eos_token_id = tokenizer.eos_token_id" in card
    assert "| chat template | chatml (JOB_CHAT_TEMPLATE) |" in card
    assert "resize_token_embeddings" not in model_card(plain, "./adapter")
    assert "generation_config" not in model_card(plain, "./adapter")


def test_what_the_first_attempt_settles_holds_for_all_later_ones_of_the_same_job(tmp_path):
    spec, other = (spec_for(tmp_path / "out", seed=seed) for seed in (1, 2))
    output, settled = Output(str(tmp_path / "out")), Decided(quantization="nf4", packing=True)
    assert output.decided(spec) is None

    output.mark(spec, settled)
    output.mark(spec)  # the next attempt
    assert output.decided(spec) == settled
    assert output.decided(other) is None

    output.mark(other)
    assert output.decided(spec) is None
