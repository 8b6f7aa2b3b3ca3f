"""Configurations and splits of a dataset repository: as its card declares them, else as its file names say.

The rules are those of `datasets` (`data_files.py`, `utils/metadata.py`), so that a split here holds the files that
``load_dataset`` would take.
"""

import re
from collections.abc import Sequence
from typing import Any

from job.errors import BadData, BadSpec, NotFound
from job.facts.patterns import is_hidden, matches
from job.uri import HubUri

Splits = dict[str, list[str]]  # split name -> paths

_SHARDED = re.compile(r"data/([^/]*)-\d{5}-of-\d{5}[^/]*\.[^/]*")
_KEYWORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SEPARATORS = "[-._ 0-9]"
_IN_FOLDER = ("**/{0}/**", "**/{0}{1}*/**", "**/*{1}{0}/**", "**/*{1}{0}{1}*/**")
_IN_NAME = ("**/{0}{1}*", "**/*{1}{0}{1}*")

_FRONT_MATTER = re.compile(r"\s*---[\r\n]+(.*?)[\r\n]+---[ \t]*(?:[\r\n]|\Z)", re.DOTALL)
# Only this block is parsed: cards carry megabytes of feature lists, and YAML is slow.
_CONFIGS = re.compile(r"^configs:.*?(?=^[^\s#-]|\Z)", re.DOTALL | re.MULTILINE)


def splits_by_name(paths: Sequence[str]) -> Splits:
    """The splits that file names tell: ``data/train-00000-of-00004.parquet``, else keywords in folders, else keywords
    in names; where nothing is told, everything is ``train``. Hidden files count only where there are no others."""
    paths = [path for path in paths if not is_hidden(path)] or paths
    sharded: Splits = {}
    for path in paths:
        if found := _SHARDED.fullmatch(path):
            sharded.setdefault(found[1], []).append(path)
    return sharded or _by_keyword(_IN_FOLDER, paths) or _by_keyword(_IN_NAME, paths) or {"train": list(paths)}


def _by_keyword(forms: Sequence[str], paths: Sequence[str]) -> Splits:
    splits = {}
    for split, keywords in _KEYWORDS.items():
        patterns = [form.format(keyword, _SEPARATORS) for keyword in keywords for form in forms]
        if found := [path for path in paths if any(matches(pattern, path) for pattern in patterns)]:
            splits[split] = found
    return splits


def splits_by_card(uri: HubUri, card: bytes, paths: Sequence[str]) -> Splits | None:
    """The splits of the configuration that *uri* asks for, or of the default one, as the dataset card *card* (its
    README.md) declares them; None where it declares nothing.

    Raises:
        BadData: the declaration makes no sense, or points out of the repository.
        BadSpec: there are several configurations, none the default.
        NotFound: there is no such configuration.
    """
    configs = _declared(uri, card)
    if not configs:
        return None
    config = configs[_chosen(uri, configs)]
    folder = str(config.get("data_dir") or "").strip("/")
    below = {path: path[len(folder) + 1 :] if folder else path for path in paths if matches(folder or "**", path)}
    declared = config.get("data_files")
    if declared is None:
        return _named(splits_by_name(list(below.values())), below)
    patterns = _patterns(uri, declared)
    return _named(
        {split: [path for path in below.values() if _any_match(wanted, path)] for split, wanted in patterns.items()},
        below,
    )


def _named(splits: Splits, below: dict[str, str]) -> Splits:
    """*splits* of paths relative to a configuration's folder, as paths in the repository."""
    full = {short: path for path, short in below.items()}
    return {split: [full[short] for short in paths] for split, paths in splits.items()}


def _any_match(patterns: Sequence[str], path: str) -> bool:
    return any(matches(pattern, path) for pattern in patterns)


def _declared(uri: HubUri, card: bytes) -> dict[str, dict[str, Any]]:
    """The ``configs:`` of the card's YAML header, by name."""
    header = _FRONT_MATTER.match(card.decode("utf-8", "replace").removeprefix("\ufeff"))
    block = _CONFIGS.search(header[1].replace("\r\n", "\n")) if header else None
    if block is None:
        return {}
    import yaml

    try:
        configs = yaml.safe_load(block[0])["configs"]
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise _nonsense(uri, "is not valid YAML") from error
    if not isinstance(configs, list | None) or not all(_is_config(config) for config in configs or ()):
        raise _nonsense(uri, "should be a list of entries with config_name")
    return {config["config_name"]: config for config in configs or ()}


def _is_config(config: Any) -> bool:
    return isinstance(config, dict) and isinstance(config.get("config_name"), str)


def _chosen(uri: HubUri, configs: dict[str, dict[str, Any]]) -> str:
    names = ", ".join(configs)[:300]
    if uri.config is not None:
        if uri.config in configs:
            return uri.config
        raise NotFound(f"{uri}: the dataset has no configuration {uri.config!r}.", f"It has {names}.")
    default = [name for name, config in configs.items() if name == "default" or config.get("default") is True]
    if len(configs) == 1 or default:
        return (default or list(configs))[0]
    raise BadSpec(f"{uri} has several configurations: {names}.", f"Add one: {uri}?config={next(iter(configs))}.")


def _patterns(uri: HubUri, declared: Any) -> dict[str, list[str]]:
    """``data_files`` as split name -> patterns: a pattern or a list of them is ``train``."""
    entries = declared if isinstance(declared, list) else [declared]
    if not all(isinstance(entry, dict) for entry in entries):
        return {"train": _strings(uri, declared)}
    try:
        return {str(entry["split"]): _strings(uri, entry["path"]) for entry in entries}
    except KeyError as error:
        raise _nonsense(uri, f"has data_files without {error}") from error


def _strings(uri: HubUri, value: Any) -> list[str]:
    patterns = value if isinstance(value, list) else [value]
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise _nonsense(uri, "has data_files that are no paths")
        if "://" in pattern or ".." in pattern.split("/") or pattern.startswith("/"):
            raise _nonsense(uri, f"points out of the repository ({pattern[:100]!r})")
    return patterns


def _nonsense(uri: HubUri, reason: str) -> BadData:
    return BadData(f"{uri}: the 'configs' block of README.md {reason}.", "Name the files: hf://datasets/org/name/path.")
