"""The base model from ``config.json`` and safetensors headers: parameter count, shapes and dtypes, without weights."""

import contextlib
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from job.errors import BadSpec, NotFound
from job.records import ModelFacts, TensorGroup
from job.rundir import write_bytes
from job.storage import Snapshot, Store, StoredFile

_HEADER_LIMIT = 100 * 2**20  # bytes; the safetensors format allows no larger header
_TOKENIZER_SUFFIXES = (".json", ".jinja", ".model", ".txt")
_GROUPS = TypeAdapter(tuple[TensorGroup, ...])
_INDEX = "model.safetensors.index.json"


def inspect_model(store: Store, snapshot: Snapshot, cache: Path | None = None) -> ModelFacts:
    """Read the headers of the model in *store*, or take them from *cache*, where an earlier job has left them.

    Raises:
        NotFound: ``config.json`` is missing.
        BadSpec: it has no safetensors weights, or no fast tokenizer.
    """
    names = {file.path for file in snapshot.files}
    if "config.json" not in names:
        raise NotFound(f"JOB_MODEL={store.uri} holds no config.json.", "Give the folder or repository of a model.")
    if "tokenizer.json" not in names:
        raise BadSpec(
            f"JOB_MODEL={store.uri} holds no tokenizer.json.",
            "Save it once with AutoTokenizer.from_pretrained(…).save_pretrained(…), which writes one.",
        )
    config = _read_config(store)
    shards = weight_files(store, snapshot)
    return _facts(store.uri, snapshot, config, shards, _tensors(store, shards, cache))


def weight_files(store: Store, snapshot: Snapshot) -> list[StoredFile]:
    """The safetensors files that make up the model: those its index names, else those beside ``config.json``.

    Raises:
        BadSpec: there are none; pickled weights are not loaded.
        NotFound: the index names a file that is not there.
    """
    files = {file.path: file for file in snapshot.files}
    if _INDEX in files:
        listed = sorted(set(json.loads(store.read(_INDEX))["weight_map"].values()))
        if missing := [name for name in listed if name not in files]:
            raise NotFound(f"{store.uri}: {_INDEX} names {missing[0]}, which is not there.", "Upload the model again.")
        return [files[name] for name in listed]
    if "model.safetensors" in files:
        return [files["model.safetensors"]]
    shards = [file for path, file in sorted(files.items()) if path.endswith(".safetensors") and "/" not in path]
    if not shards:
        raise BadSpec(
            f"JOB_MODEL={store.uri} holds no safetensors weights.",
            "Convert it with save_pretrained(…); pickled weights are not loaded.",
        )
    return shards


def small_files(snapshot: Snapshot) -> list[StoredFile]:
    """Configuration and tokenizer: everything beside ``config.json`` that is text."""
    return [file for file in snapshot.files if "/" not in file.path and file.path.endswith(_TOKENIZER_SUFFIXES)]


def read_header(store: Store, shard: StoredFile) -> dict[str, Any]:
    """The JSON header of a safetensors file: 8 bytes of little-endian length, then that many bytes of JSON.

    Raises:
        BadSpec: the file is not safetensors.
    """
    size = int.from_bytes(store.read(shard.path, 0, 8), "little")
    if not 0 < size <= min(_HEADER_LIMIT, shard.size - 8):
        raise BadSpec(f"{store.uri}: {shard.path} is not a safetensors file.", "Upload the model again.")
    header: dict[str, Any] = json.loads(store.read(shard.path, 8, size))
    header.pop("__metadata__", None)
    return header


def _tensors(store: Store, shards: list[StoredFile], cache: Path | None) -> tuple[TensorGroup, ...]:
    if cache is None:
        return _read_tensors(store, shards)
    cached = cache / f"{identity(shards)[:24]}.json"
    with contextlib.suppress(OSError, ValueError):  # not there, or another version's
        return _GROUPS.validate_json(cached.read_bytes())
    groups = _read_tensors(store, shards)
    with contextlib.suppress(OSError):  # a folder that cannot be written is found out by whoever needs it
        write_bytes(cached, _GROUPS.dump_json(groups))
    return groups


def _read_tensors(store: Store, shards: list[StoredFile]) -> tuple[TensorGroup, ...]:
    with ThreadPoolExecutor(max_workers=8) as pool:
        headers = list(pool.map(lambda shard: read_header(store, shard), shards))
    return tensor_groups(tensor for header in headers for tensor in header.items())


def tensor_groups(tensors: Iterable[tuple[str, dict[str, Any]]]) -> tuple[TensorGroup, ...]:
    """*tensors* (name, safetensors entry) with those together that differ only by the numbers in their names: a model
    of a hundred layers with a hundred experts each is told in two dozen lines."""
    counts = Counter((re.sub(r"\d+", "*", name), tuple(tensor["shape"]), tensor["dtype"]) for name, tensor in tensors)
    groups = (TensorGroup(name=n, shape=shape, dtype=d, count=count) for (n, shape, d), count in counts.items())
    return tuple(sorted(groups, key=lambda group: (group.name, group.shape)))


def identity(files: Iterable[StoredFile]) -> str:
    """A hash that changes when any of *files* does."""
    listing = sorted((file.path, file.size, file.identity) for file in files)
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def _read_config(store: Store) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(store.read("config.json"))
    except ValueError as error:
        raise BadSpec(f"JOB_MODEL={store.uri}: config.json is not valid JSON ({error}).", "Upload it again.") from error
    if stored := config.get("quantization_config"):
        raise BadSpec(
            f"JOB_MODEL={store.uri} is stored quantized ({stored.get('quant_method', 'unknown')}).",
            "Give the model that it was made from; JOB_QUANTIZATION=nf4 or int8 quantizes it on loading.",
        )
    if "auto_map" in config:
        raise BadSpec(
            f"JOB_MODEL={store.uri} needs code from its own repository (auto_map in config.json).",
            "Use a model whose architecture transformers contains; code from a repository is never run.",
        )
    return config


def _facts(
    uri: str, snapshot: Snapshot, config: dict[str, Any], shards: list[StoredFile], tensors: tuple[TensorGroup, ...]
) -> ModelFacts:
    dtypes: Counter[str] = Counter()
    for group in tensors:
        dtypes[group.dtype] += group.numel
    # Vision-language and some newer configurations nest the language model's numbers.
    text: dict[str, Any] = config.get("text_config", config)
    return ModelFacts(
        uri=uri,
        revision=snapshot.revision,
        model_type=config.get("model_type", "unknown"),
        parameters=sum(dtypes.values()),
        weights_bytes=sum(shard.size for shard in shards),
        dtypes=dict(dtypes),
        tensors=tensors,
        config=text,
        max_length=text.get("max_position_embeddings", text.get("n_positions")),
        identity=identity([*shards, *small_files(snapshot)]),
    )
