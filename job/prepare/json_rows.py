"""Rows of JSON Lines and of JSON arrays. Stricter than Python's decoder: what two programs could read differently
(duplicate keys, NaN, half of a surrogate pair) is refused rather than trained on."""

import codecs
import json
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from job.errors import BadData
from job.prepare.lines import BOM, RECORD_LIMIT, TOO_LONG, decode, opened, read_lines
from job.prepare.progress import Meter
from job.prepare.row import Row
from job.records import DataFile

DEPTH_LIMIT = 100  # nested brackets; far below where the interpreter gives up, far above any dataset

_CHUNK = 2**18  # bytes of an array read at a time


class JsonLine(NamedTuple):
    """A line that is yet to be decoded."""

    where: str
    raw: bytes

    def row(self) -> Row | BadData:
        """The line's row, or the problem with it."""
        try:
            text = decode(self.raw, self.where)
            record = _LINES.decode(text)
        except BadData as problem:
            return problem
        except (ValueError, RecursionError) as error:
            return _not_json(self.where, error)
        return _checked(self.where, record, _LINES.fault(record, text, 0, len(text)), len(self.raw))


def read_json_lines(file: DataFile, meter: Meter) -> Iterator[JsonLine | BadData]:
    """One item per line that is not blank; the problem in the place of a line that is too long."""
    with opened(file, meter) as stream:
        for number, line in enumerate(read_lines(stream), start=1):
            where = f"{file.name}:{number}"
            if line is None:
                yield BadData(f"{where}: the line {TOO_LONG}.", "Split the record, or leave it out.")
            elif stripped := line.rstrip():
                yield JsonLine(where, stripped)


def starts_array(file: DataFile) -> bool:
    """Whether *file* is one JSON array rather than one object per line."""
    with opened(file) as stream:
        return stream.read(4096).removeprefix(BOM).lstrip().startswith(b"[")


def read_json_array(file: DataFile, meter: Meter) -> Iterator[Row | BadData]:
    """One row per element, read and dropped one by one.

    Raises:
        BadData: the text is not a JSON array, from the element on where it stops being one.
    """
    strict, number = _StrictDecoder(), 0
    with opened(file, meter) as stream:
        window = _Window(stream, file.name)
        window.take("[")
        more = window.next_character() != "]"
        while more:
            number += 1
            record, begin, end = window.element(strict, number)
            where = f"{file.name}:row {number}"
            yield _checked(where, record, strict.fault(record, window.text, begin, end), end - begin)
            more = window.next_character() == ","
            if more:
                window.take(",")
        window.take("]")
        if window.next_character():
            raise BadData(f"{file.name}: there is more after the end of the array.", "Keep one array per file.")


class _Window:
    """The stretch of a text that is being looked at: read as needed, dropped once it has been taken."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self.text = ""
        self._stream, self._name = stream, name
        self._start = 0
        self._bytes = 0  # read so far
        self._ended = False
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode

    def next_character(self) -> str:
        """The next character that is no white space, not yet taken; empty at the end."""
        while True:
            rest = len(self.text) - self._start
            while rest and self.text[self._start] in " \t\r\n":
                self._start, rest = self._start + 1, rest - 1
            if rest or self._ended:
                return self.text[self._start : self._start + 1]
            self._read(_CHUNK)

    def take(self, character: str) -> None:
        """Pass *character*.

        Raises:
            BadData: another one stands there.
        """
        found = self.next_character()
        if not found:
            raise BadData(f"{self._name} ends inside its JSON array.", "It is cut off; write it again.")
        if found != character:
            raise BadData(f"{self._name}: expected {character!r} in the JSON array, found {found!r}.", "Mend the file.")
        self._start += 1

    def element(self, strict: "_StrictDecoder", number: int) -> tuple[Any, int, int]:
        """The next value, taken, and where it begins and ends in *text*.

        Raises:
            BadData: there is none, or it is longer than a record may be.
        """
        where = f"{self._name}:row {number}"
        self.next_character()
        while True:
            size = len(self.text) - self._start
            try:
                value, end = strict.raw_decode(self.text, self._start)
                if end < len(self.text) or self._ended:  # else a number might go on in the next chunk
                    begin, self._start = self._start, end
                    return value, begin, end
            except json.JSONDecodeError as error:
                if self._ended:
                    raise BadData(f"{where}: not valid JSON ({error.msg}).", "It may be cut off; mend it.") from error
            except (ValueError, RecursionError) as error:
                raise _not_json(where, error) from error
            if size > RECORD_LIMIT:
                raise BadData(f"{where}: the element {TOO_LONG}, or is not valid JSON.", "Use JSON Lines.")
            self._read(max(_CHUNK, size))  # doubling keeps the repeated attempts linear

    def _read(self, size: int) -> None:
        raw = self._stream.read(size)
        self._ended = not raw
        try:
            self.text = self.text[self._start :] + self._decode(raw, final=self._ended)
        except UnicodeDecodeError as error:
            where = f"{self._name}: near byte {self._bytes + error.start}"
            raise BadData(f"{where} the text is not valid UTF-8.", "Save the file as UTF-8.") from error
        self._start, self._bytes = 0, self._bytes + len(raw)


class _StrictDecoder:
    """Python's decoder, taking note of what it lets pass."""

    def __init__(self) -> None:
        self._faults: list[str] = []
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object, parse_constant=self._constant, parse_float=self._float
        )

    def decode(self, text: str) -> Any:
        self._faults.clear()
        return self._decoder.decode(text)

    def raw_decode(self, text: str, start: int) -> tuple[Any, int]:
        self._faults.clear()
        return self._decoder.raw_decode(text, start)

    def fault(self, value: Any, text: str, start: int, end: int) -> str | None:
        """What is wrong with *value*, the last one decoded, from text[start:end]. The counts spare most rows a walk."""
        if text.count("[", start, end) + text.count("{", start, end) > DEPTH_LIMIT and _depth(value) > DEPTH_LIMIT:
            return "nested too deeply"
        if self._faults:
            return self._faults[0]
        if text.find("\\ud", start, end) >= 0 or text.find("\\uD", start, end) >= 0:
            try:
                json.dumps(value, ensure_ascii=False).encode()
            except UnicodeEncodeError:
                return "half of a surrogate pair (\\ud800 to \\udfff) is no character"
        return None

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) < len(pairs):
            twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
            self._faults.append(f"key {twice[:80]!r} appears twice in one object")
        return record

    def _constant(self, name: str) -> None:
        self._faults.append(f"{name} is not JSON")

    def _float(self, digits: str) -> float:
        value = float(digits)
        if math.isinf(value):
            self._faults.append(f"the number {digits[:40]} is too large")
        return value


_LINES = _StrictDecoder()


def _depth(value: Any) -> int:
    """Levels of brackets, counted up to the first beyond the limit."""
    level, depth = [value], 0
    while depth <= DEPTH_LIMIT:
        level = [item for item in level if isinstance(item, (dict, list))]
        if not level:
            return depth
        level = [item for parent in level for item in (parent.values() if isinstance(parent, dict) else parent)]
        depth += 1
    return depth


def _not_json(where: str, error: ValueError | RecursionError) -> BadData:
    if isinstance(error, json.JSONDecodeError):
        return BadData(f"{where}: not valid JSON ({error.msg} at column {error.colno}).", "Mend the line.")
    if isinstance(error, RecursionError):
        return BadData(f"{where}: nested too deeply.", "Flatten the record.")
    return BadData(f"{where}: a number has too many digits.", "Write it as a string.")  # int() refuses above 4,300


def _checked(where: str, record: Any, fault: str | None, size: int) -> Row | BadData:
    if fault:
        return BadData(f"{where}: {fault}.", "Mend the record.")
    if isinstance(record, dict):
        return Row(where, record, size)
    return BadData(f"{where}: expected an object, found {type(record).__name__}.", "Write one object per row.")
