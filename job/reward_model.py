"""The trained reward model of a job: found and looked into before the GPU is busy, then brought onto this machine."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from job.checkpoints import ON_TOP
from job.errors import BadSpec, JobError
from job.inputs import ModelSource, Source, find_model
from job.records import RewardModel
from job.storage import StoredFile, open_store
from job.uri import HubUri, parse_uri

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Where an adapter lies: a repository's root or a folder of its own, and in a run's output.
_PLACES = ("", "adapter/")
_TOKENIZER_SUFFIXES = (".json", ".jinja", ".model", ".txt")


@dataclass(frozen=True)
class RewardSource:
    """Where a reward model's parts are: *base*, and the adapter that makes it one, in the folder *place* of its
    source; None: the base is one itself."""

    base: ModelSource
    adapter: Source | None = None
    place: str = ""

    @property
    def revisions(self) -> dict[str, str]:
        """The commit of each place on the Hub, by URI."""
        sources = [self.base.source, *([self.adapter] if self.adapter else [])]
        return {str(source.uri): source.revision for source in sources if source.revision}

    def localize(self, cache: Path) -> RewardModel:
        """Its folders on this machine."""
        base = self.base.localize(cache / "models", weights=True).absolute()
        if self.adapter is None:
            return RewardModel(base=base)
        folder = self.adapter.localize(cache / "adapters") / self.place
        return RewardModel(base=base, adapter=folder.absolute())


def find_reward_model(text: str, cache: Path | None = None, commits: Mapping[str, str] | None = None) -> RewardSource:
    """Look into the model that ``JOB_REWARD_MODEL`` names: an adapter and its base, or a model that scores by itself.
    *cache* and *commits* as for `find_model`.

    Raises:
        NotFound, AccessDenied, NetworkExhausted: it, or the base of its adapter, cannot be reached.
        BadSpec: it does not score answers.
    """
    uri = parse_uri(text, "model")
    commit = (commits or {}).get(str(uri))
    pinned = replace(uri, revision=commit) if commit and isinstance(uri, HubUri) else uri
    store = open_store(pinned)
    snapshot = store.snapshot()
    names = {file.path for file in snapshot.files}
    place = next((place for place in _PLACES if place + _CONFIG in names), None)
    if place is None:
        return RewardSource(_that_scores(text, _model(text, text, cache, commits)))
    config = json.loads(store.read(place + _CONFIG))
    if config.get("task_type") != "SEQ_CLS":
        raise BadSpec(
            f"JOB_REWARD_MODEL={text} is an adapter for {config.get('task_type')}, which scores no answers.",
            "Give the adapter of a job with JOB_METHOD=reward.",
        )
    if place + ON_TOP in names:
        raise BadSpec(
            f"JOB_REWARD_MODEL={text} stands on a base with another adapter merged into it, which is not done here.",
            "Train it without JOB_ADAPTER_URI, or merge that adapter yourself and name the result in its JOB_MODEL.",
        )
    base = _model(text, _base_of(config), cache, commits)
    files = tuple(file for file in snapshot.files if _belongs(file, place))
    return RewardSource(base, Source(uri, store, files, snapshot.revision), place)


def _belongs(file: StoredFile, place: str) -> bool:
    folder, _, name = file.path.rpartition("/")
    return folder == place.rstrip("/") and (name == _WEIGHTS or name.endswith(_TOKENIZER_SUFFIXES))


def _base_of(config: Mapping[str, Any]) -> str:
    name, revision = str(config["base_model_name_or_path"]), config.get("revision")
    uri = parse_uri(name, "model")
    return f"hf://{uri.repo_id}@{revision}" if isinstance(uri, HubUri) and revision else name


def _model(text: str, name: str, cache: Path | None, commits: Mapping[str, str] | None) -> ModelSource:
    try:
        return find_model(name, cache, commits)
    except JobError as error:
        whose = f"JOB_REWARD_MODEL={text}" + (f", whose base is {name}" if name != text else "")
        raise type(error)(f"{whose}: {error.cause.removeprefix('JOB_MODEL=')}", error.fix) from error


def _that_scores(text: str, model: ModelSource) -> ModelSource:
    """Raises:
    BadSpec: *model* gives no single score.
    """
    config = model.facts.config
    kinds, labels = config.get("architectures") or ["?"], config.get("num_labels") or len(config.get("id2label") or ())
    if not str(kinds[0]).endswith("ForSequenceClassification") or labels not in (0, 1):
        raise BadSpec(
            f"JOB_REWARD_MODEL={text} is a {kinds[0]} with {labels} labels, which gives no score.",
            "Give the adapter of a job with JOB_METHOD=reward, or a model for sequence classification with one label.",
        )
    return model
