"""The adapter of an earlier run that this one starts from: found, and seen to fit, before anything is fetched."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from job.adapters import KINDS
from job.checkpoints import ON_TOP
from job.errors import BadSpec, NotFound
from job.facts.model import read_header
from job.inputs import ModelSource, Source
from job.records import ModelFacts, StartingAdapter
from job.spec import JobSpec
from job.storage import Snapshot, Store, StoredFile, open_store
from job.storage.transfer import MANIFEST, sha256_of
from job.uri import HubUri, parse_uri

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Where a run's output has its adapter; at the root of a repository on the Hub, or where the adapter itself is named.
_FOLDERS = ("", "adapter/")
_LORA = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")


@dataclass(frozen=True)
class AdapterSource:
    """The adapter's files in *folder* of their place, and what its manifest says of them."""

    source: Source
    folder: str
    sums: Mapping[str, str]  # path -> SHA-256; none without a manifest
    location: str  # what loads it: a repository id or a folder

    def localize(self, cache: Path, how: Literal["continue", "merge"]) -> StartingAdapter:
        """The adapter, brought into *cache*.

        Raises:
            BadSpec: it is not what its manifest says.
        """
        folder = self.source.localize(cache)
        found = {file.path: sha256_of(folder / file.path) for file in self.source.files}
        if damaged := [path for path, expected in self.sums.items() if found[path] != expected]:
            raise BadSpec(f"JOB_ADAPTER_URI={self.source.uri}: {damaged[0]} is not as its {MANIFEST} says.", _AGAIN)
        contents = "".join(found[path] for path in sorted(found))
        return StartingAdapter(
            path=(folder / self.folder).absolute(),
            how=how,
            location=self.location,
            identity=hashlib.sha256(contents.encode()).hexdigest(),
        )


_AGAIN = "Publish it again, or name another."


def find_adapter(spec: JobSpec, model: ModelSource, commits: Mapping[str, str] | None = None) -> AdapterSource | None:
    """The adapter in ``JOB_ADAPTER_URI``, whose configuration and tensors fit *model*; None where none is asked for.
    On the Hub it is that of its commit in *commits*.

    Raises:
        NotFound, AccessDenied, NetworkExhausted: it cannot be reached.
        BadSpec: it is none, or cannot be gone on with.
    """
    if spec.adapter_uri is None:
        return None
    uri = parse_uri(spec.adapter_uri, "model")
    store = open_store(_at(uri, commits))
    snapshot = store.snapshot()
    files = {file.path: file for file in snapshot.files}
    folder = next((folder for folder in _FOLDERS if folder + CONFIG in files), None)
    if folder is None or folder + WEIGHTS not in files:
        raise NotFound(f"JOB_ADAPTER_URI={uri} holds no {CONFIG} with {WEIGHTS} beside it.", "Name a run's output.")
    if folder + ON_TOP in files:
        raise BadSpec(
            f"JOB_ADAPTER_URI={uri} stands on a base with another adapter merged into it.",
            "Merge both into the base, save that, and name it in JOB_MODEL.",
        )
    needed = tuple(files[folder + name] for name in (CONFIG, WEIGHTS))
    sums = _vouched(store, snapshot, needed)
    _refuse_other(spec, json.loads(store.read(folder + CONFIG)), model)
    refuse_shapes(str(uri), read_header(store, files[folder + WEIGHTS]), model.facts)
    place = uri.repo_id if isinstance(uri, HubUri) else f"{str(uri).rstrip('/')}/{folder}".rstrip("/")
    return AdapterSource(Source(uri, store, needed, snapshot.revision), folder, sums, place)


def _at(uri: Any, commits: Mapping[str, str] | None) -> Any:
    commit = (commits or {}).get(str(uri))
    return HubUri(uri.repo_id, uri.repo_type, commit, uri.path) if commit and isinstance(uri, HubUri) else uri


def _vouched(store: Store, snapshot: Snapshot, needed: tuple[StoredFile, ...]) -> dict[str, str]:
    """What the manifest of the place, if it has one, says of the files *needed*."""
    if all(file.path != MANIFEST for file in snapshot.files):
        return {}
    told = json.loads(store.read(MANIFEST)).get("files", {})
    for file in needed:
        if file.path in told and told[file.path]["size"] != file.size:
            raise BadSpec(f"JOB_ADAPTER_URI={store.uri}: {file.path} is not as {MANIFEST} says.", _AGAIN)
    return {file.path: told[file.path]["sha256"] for file in needed if file.path in told}


def _refuse_other(spec: JobSpec, config: Mapping[str, Any], model: ModelSource) -> None:
    """Raises:
    BadSpec: the adapter is of another base, or of a kind that cannot be gone on with in this way.
    """
    told = f"JOB_ADAPTER_URI={spec.adapter_uri}"
    base = str(config.get("base_model_name_or_path") or "")
    if base and _plain(base) != _plain(model.name):
        raise BadSpec(f"{told} is an adapter of {base}, and JOB_MODEL={spec.model}.", f"Set JOB_MODEL={base}.")
    if config.get("task_type") == "SEQ_CLS":
        raise BadSpec(f"{told} is a reward model, which answers nothing.", "Name it in JOB_REWARD_MODEL of rloo.")
    if config.get("trainable_token_indices"):
        raise BadSpec(
            f"{told} holds tokens that JOB_MODEL does not have.",
            "Train it with JOB_CHAT_TEMPLATE=plain, which needs no new token.",
        )
    kind = f"{config.get('peft_type', '?')}"
    if spec.adapter_start == "merge" and kind in ("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING"):
        raise BadSpec(f"{told} is of kind {kind}, whose tokens cannot be merged into a base.", "Name a LoRA adapter.")
    if spec.adapter_start == "continue":
        _refuse_settings(spec, config, kind)


def _refuse_settings(spec: JobSpec, config: Mapping[str, Any], kind: str) -> None:
    """Raises:
    BadSpec: the settings describe another adapter than the one that is to be trained on.
    """
    told = f"JOB_ADAPTER_URI={spec.adapter_uri}"
    if KINDS[spec.adapter].config.removesuffix("Config").upper() != kind.replace("_", ""):
        raise BadSpec(f"{told} is of kind {kind}, and JOB_ADAPTER={spec.adapter}.", "Set JOB_ADAPTER to its kind.")
    if kind != "LORA":
        return
    for name, field in (("lora_r", "r"), ("lora_alpha", "lora_alpha")):
        if config.get(field) != getattr(spec, name):
            raise BadSpec(
                f"{told} has {field}={config.get(field)}, and JOB_{name.upper()}={getattr(spec, name)}.",
                f"Set JOB_{name.upper()}={config.get(field)} to train it on.",
            )


def _plain(name: str) -> str:
    return name.removeprefix("hf://").removeprefix("file://").partition("@")[0].rstrip("/")


def refuse_shapes(uri: str, header: Mapping[str, Any], model: ModelFacts) -> None:
    """Raises:
    BadSpec: a LoRA tensor of *header* stands beside no weight of *model*, or does not fit it.
    """
    shapes = {group.name: group.shape for group in model.tensors if len(group.shape) == 2}
    for name, tensor in header.items():
        if not (match := _LORA.fullmatch(name)):
            continue
        module = re.sub(r"\d+", "*", match[1])
        # Names in memory may have a prefix that those in the file lack, and the other way round.
        found = [shape for known, shape in shapes.items() if f".{module}.weight".endswith(f".{known}")
                 or f".{known}".endswith(f".{module}.weight")]  # fmt: skip
        width = tensor["shape"][1 if match[2] == "A" else 0]
        if not any(width in shape for shape in found):
            where = f"of which {match[1]} is of another shape" if found else f"which has no {match[1]}"
            raise BadSpec(
                f"JOB_ADAPTER_URI={uri} does not fit JOB_MODEL, {where}.",
                "Name the base that it was trained on.",
            )
