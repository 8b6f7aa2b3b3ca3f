"""Shell patterns over the paths of a store, as `datasets` and fsspec read them."""

from fnmatch import fnmatchcase
from pathlib import PurePosixPath


def matches(pattern: str, path: str) -> bool:
    """Whether *path* is what *pattern* means: that very file, a file below that very folder, or a match, where ``*``,
    ``?`` and ``[…]`` stay between two slashes and ``**`` crosses them. Hidden files and folders (``.name``), and
    folders like ``__pycache__``, match only what names them. Time is linear in both, whatever the pattern."""
    pattern = pattern.removeprefix("./")
    if path == pattern or path.startswith(f"{pattern}/"):
        return True
    return _fits(_segments(pattern), path.split("/")) and _hidden_parts(pattern) == _hidden_parts(path)


def is_hidden(path: str) -> bool:
    """Whether a folder's files leave this one out unless it is named."""
    return _hidden_parts(path) > 0


def _hidden_parts(path: str) -> int:
    parts = PurePosixPath(path).parts
    return sum(part.startswith(".") for part in parts) + sum(part.startswith("__") for part in parts[:-1])


def _segments(pattern: str) -> list[str]:
    """The parts of *pattern*. ``**.jsonl``, which people write for ``**/*.jsonl``, becomes that, and a last ``**``,
    which stands for at least one name, ``**/*``."""
    parts = pattern.split("/")
    split = [["**", part[1:]] if part.startswith("**") and part != "**" else [part] for part in parts]
    return [segment for part in split for segment in part] + ["*"] * (parts[-1] == "**")


def _fits(segments: list[str], parts: list[str]) -> bool:
    """Simulates the pattern as an automaton: the set of places in it that may come next."""
    places = _after_skips({0}, segments)
    for part in parts:
        stepped = {
            place if segments[place] == "**" else place + 1
            for place in places
            if place < len(segments) and (segments[place] == "**" or fnmatchcase(part, segments[place]))
        }
        places = _after_skips(stepped, segments)
    return len(segments) in places


def _after_skips(places: set[int], segments: list[str]) -> set[int]:
    """*places*, and those behind a ``**`` that matches nothing."""
    reached = set(places)
    for place in sorted(places):
        while place < len(segments) and segments[place] == "**":
            place += 1
            reached.add(place)
    return reached
