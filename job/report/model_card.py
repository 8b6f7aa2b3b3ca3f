"""The adapter's ``README.md``: facts of the run and a snippet that loads it."""

import json

import yaml

from job.adapters import KINDS, summary
from job.report.metrics import BaseModelMetrics, EvalMetrics, Metrics, TokenizerMetrics, TrainMetrics
from job.settings import Settings

_SNIPPET = """```python
from peft import PeftModel
from transformers import {auto}, AutoTokenizer

base = {auto}.from_pretrained({base}{revision}{outputs}, dtype="auto")
tokenizer = AutoTokenizer.from_pretrained({adapter}{subfolder})
{merging}{fitting}model = PeftModel.from_pretrained(base, {adapter}{subfolder})
```"""
_WHOLE = """```python
from transformers import {auto}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({adapter}{subfolder})
model = {auto}.from_pretrained({adapter}{subfolder}{outputs}, dtype="auto")
```"""
_STARTS = {"continue": "trained on", "merge": "merged into the base before"}
_RESIZE = "base.resize_token_embeddings({rows})  # len(tokenizer): rows for the new tokens, filled by the adapter\n"
_PADDING = "base.config.pad_token_id = tokenizer.pad_token_id  # a score is read before the padding\n"
_END = "base.generation_config.eos_token_id = tokenizer.eos_token_id  # ends a turn; the base model's own does not\n"
_STATES = {"finished": "", "partial": "Unfinished ", "rejected": "Rejected "}


def model_card(metrics: Metrics, adapter_location: str, subfolder: str = "") -> str:
    """Markdown with the Hub's YAML header. *adapter_location* is a repository id, in which the adapter lies in
    *subfolder*, or the adapter's folder."""
    base = metrics.base_model
    on_hub, scores = base.revision is not None, metrics.method == "reward"
    base_id = base.uri.removeprefix("hf://").partition("@")[0] if on_hub else base.uri
    full = KINDS[metrics.adapter].is_full
    folder = KINDS[metrics.adapter].folder
    places = {folder: adapter_location} if full else _places(base_id, adapter_location, base.merged_adapter or "")
    snippet = _copies(places) + (_WHOLE if full else _SNIPPET).format(
        auto="AutoModelForSequenceClassification" if scores else "AutoModelForCausalLM",
        outputs=", num_labels=1" if scores else "",
        base=json.dumps(_loadable(base_id, "base")),
        revision=f", revision={json.dumps(base.revision)}" if on_hub else "",
        adapter=json.dumps(_loadable(adapter_location, folder)),
        subfolder=f", subfolder={json.dumps(subfolder)}" if subfolder else "",
        merging=_merging(metrics.base_model),
        fitting=_PADDING if scores else _fitting(metrics.tokenizer),
    )
    title = f"{_STATES[metrics.status]}{_title(metrics.adapter, base_id)}"
    header = {
        "library_name": "transformers" if full else "peft",
        "pipeline_tag": "text-classification" if scores else "text-generation",
        "tags": [metrics.adapter, metrics.method, "trl", "graft"],
    }
    if on_hub:
        header |= {"base_model": base_id, "base_model_relation": "finetune" if full else "adapter"}
    rows = "\n".join(f"| {name} | {value} |" for name, value in _facts(metrics))
    return (
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n# {title}\n\n{snippet}\n\n"
        f"| | |\n|---|---|\n{rows}\n\n{_scores(metrics.eval)}All figures of the run are in `metrics.json`.\n"
    )


def _loadable(location: str, name: str) -> str:
    """What ``from_pretrained`` takes: repository ids and folders, but nothing in an object store."""
    return f"./{name}" if location.startswith("s3://") else location


def _fitting(tokenizer: TokenizerMetrics) -> str:
    """What makes the base model fit the adapter's tokenizer."""
    rows = tokenizer.added_tokens.resized_to
    return (_RESIZE.format(rows=rows) if rows else "") + (_END if tokenizer.eos_token else "")


def _merging(base: BaseModelMetrics) -> str:
    """What makes of the base the model that this adapter was trained on."""
    if base.merged_adapter is None:
        return ""
    first = _loadable(base.merged_adapter, "first_adapter")
    return f"base = PeftModel.from_pretrained(base, {json.dumps(first)}).merge_and_unload()  # it stands on both\n"


def _start(spec: dict[str, object]) -> list[tuple[str, str]]:
    if not spec.get("adapter_uri"):
        return []
    return [("starts from", f"{spec['adapter_uri']}, {_STARTS[str(spec['adapter_start'])]}")]


def _title(adapter: str, base: str) -> str:
    kind = KINDS[adapter]
    return f"{base}, fine-tuned" if kind.is_full else f"{kind.label} adapter for {base}"


def _places(base: str, adapter: str, first: str) -> dict[str, str]:
    return {"base": base, "adapter": adapter, "first_adapter": first}


def _copies(places: dict[str, str]) -> str:
    """What to fetch from an object store first, by the folders that the snippet names."""
    copies = [f"`{place}` to `./{name}`" for name, place in places.items() if "s3://" in place]
    return f"Copy {' and '.join(copies)}, then:\n\n" if copies else ""


def _facts(metrics: Metrics) -> list[tuple[str, str]]:
    plan, train, spec = metrics.plan, metrics.train, metrics.settings
    gpus = metrics.hardware.gpus
    facts = [
        ("base model", f"{metrics.base_model.uri} ({metrics.base_model.parameters:,} parameters)"),
        ("base revision", metrics.base_model.revision or "–"),
        ("data", f"{metrics.data.uri}: {metrics.data.rows:,} rows, {metrics.data.trained_tokens:,} trained tokens"),
        ("chat template", metrics.tokenizer.chat_template or "–"),
        ("trained" if KINDS[metrics.adapter].is_full else "adapter", summary(Settings.model_validate(spec))),
        *_start(spec),
        ("trainable parameters", f"{metrics.proof.trainable_parameters:,}"),
        ("adapter gate", str(metrics.proof.gate or metrics.objection or "not judged")),
        ("training", f"{train.steps} steps, {train.epochs:g} epochs, learning rate {spec['learning_rate']}"),
        *_which_step(train),
        ("global batch", f"{plan.global_batch_size} {'packs' if plan.packing else 'rows'}, {plan.precision}"),
        ("training loss", f"{train.loss:.4f}"),
        ("training curve", f"{metrics.curve[0].pattern}: {metrics.curve[0].evidence}"),
        ("hardware", f"{plan.num_processes} × {gpus[0].name}" if gpus and plan.use_gpu else "CPU"),
        ("time", f"{train.runtime_s:.0f} s" + (f", {train.tokens_per_s:,.0f} tokens/s" if train.tokens_per_s else "")),
        ("versions", ", ".join(f"{name} {version}" for name, version in metrics.versions.items())),
    ]
    if metrics.eval:
        after = "not measured" if metrics.eval.loss is None else f"{metrics.eval.loss:.4f}"
        facts.append(("evaluation loss", f"{metrics.eval.loss_before:.4f} before, {after} after"))
    return facts


def _scores(evaluated: EvalMetrics | None) -> str:
    """What the answers to held-out rows are worth, as a table."""
    if evaluated is None or not evaluated.scores:
        return ""
    rows = "".join(
        f"| {score.scorer} | {score.base:.3f} | {score.tuned:.3f} | {score.rows:,} |\n" for score in evaluated.scores
    )
    return f"| scores of answers | base | with the adapter | held-out rows |\n|---|---|---|---|\n{rows}\n"


def _which_step(train: TrainMetrics) -> list[tuple[str, str]]:
    """That this is not the last step's adapter, if it is not."""
    if train.published_step == train.steps:
        return []
    return [("published", f"the adapter of step {train.published_step}, which evaluated best")]
