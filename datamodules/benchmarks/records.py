"""Annotation files as records whose fields are requested by name and type.

Anything that does not fit raises a BadSample that names the file, the record, the field, what was
expected and what was found. Other fields are ignored.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeGuard

from datamodules.benchmarks.parquet import read_rows
from datamodules.samples import BadSample

# Far above any official file; a larger one would take tens of gigabytes once parsed.
MAX_BYTES: Final = 2 * 1024**3
# Bytes of a path, and of a name in it; systems allow 4096 and 255, with root and suffix.
_LONGEST_PATH, _LONGEST_NAME = 2000, 240
_REMEDY: Final = "Download the official file again, or correct it by hand"
_SPACE: Final = re.compile(r"[ \t\r\n]*")  # of JSON
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")  # valid in JSON, but no tokenizer reads them


@dataclass(frozen=True)
class Record:
    """An object of an annotation file.

    Args:
        path: the file.
        place: its position in the file, for messages, such as ``record 3 (id 17)``.
        fields: the JSON object.
    """

    path: Path
    place: str
    fields: dict[str, Any]

    def refuse(self, reason: str) -> BadSample:
        """Return the error for a record that cannot be used."""
        return BadSample(self.path, f"{self.place}: {reason}", _REMEDY)

    def expected(self, field: str, what: str) -> BadSample:
        """Return the error for a field that does not fit."""
        found = _shown(self.fields[field]) if field in self.fields else "nothing"
        return self.refuse(f"{field} should be {what}, found {found}")

    def has(self, field: str) -> bool:
        """Whether the field exists and is not null."""
        return self.fields.get(field) is not None

    def text(self, field: str, blank: bool = False) -> str:
        """A text; ``blank`` allows one without visible characters."""
        value = self.fields.get(field)
        if not _is_text(value, blank):
            raise self.expected(field, "a text")
        return value

    def texts(
        self, field: str, least: int = 1, most: int | None = None, blank: bool = False
    ) -> tuple[str, ...]:
        """A list of ``least`` to ``most`` texts."""
        value = self.fields.get(field)
        if not isinstance(value, list) or not all(_is_text(item, blank) for item in value):
            raise self.expected(field, "a list of texts")
        if len(value) < least or (most is not None and len(value) > most):
            limits = f"{least}" if most == least else f"{least} to {most or 'any number of'}"
            raise self.expected(field, f"a list of {limits} texts")
        return tuple(value)

    def texts_within(self, field: str) -> tuple[str, ...]:
        """The list of texts in a text that holds JSON, such as ``"[\\"violin\\"]"``."""
        inner = _parse(self.text(field), self.path, f"{self.place}: {field}")
        if not isinstance(inner, list) or not all(_is_text(item) for item in inner):
            raise self.expected(field, "a JSON list of texts within a text")
        return tuple(inner)

    def identifier(self, field: str) -> str:
        """A text or a whole number, as a text."""
        value = self.fields.get(field)
        if _is_whole(value) or _is_text(value):
            return str(value)
        raise self.expected(field, "an id")

    def index(self, field: str, length: int) -> int:
        """An index from 0 to ``length`` - 1."""
        value = self.fields.get(field)
        if _is_whole(value) and 0 <= value < length:
            return value
        raise self.expected(field, f"a whole number from 0 to {length - 1}")

    def numbers(self, field: str) -> tuple[int, ...]:
        """A list of whole numbers from 0 to 2³¹ - 1."""
        value = self.fields.get(field)
        if isinstance(value, list) and all(_is_whole(item) and 0 <= item < 2**31 for item in value):
            return tuple(value)
        raise self.expected(field, "a list of whole numbers")

    def seconds(self, field: str) -> float:
        """A timestamp in s, 0 or more."""
        value = self.fields.get(field)
        # The bounds also refuse NaN, infinity, and whole numbers too large for a float.
        if (_is_whole(value) or isinstance(value, float)) and 0 <= value < 1e9:
            return float(value)
        raise self.expected(field, "a time in s")

    def one_of(self, field: str, choices: Sequence[str]) -> str:
        """One of several texts; spaces around it are ignored."""
        value = self.fields.get(field)
        if isinstance(value, str) and value.strip() in tuple(choices):  # "AB" is in "ABCD"
            return value.strip()
        raise self.expected(field, f"one of {', '.join(choices)}")

    def choice(self, field: str, options: Sequence[str]) -> int:
        """The index of the option that equals the field's text.

        If several do, the last, as in the official code of MVBench and MLVU.
        """
        answer = self.text(field, blank=True)
        if answer not in options:
            raise self.expected(field, "one of the options")
        return max(index for index, option in enumerate(options) if option == answer)

    def media(self, field: str, form: str = "{}") -> str:
        """A relative path made from the field's text; it cannot leave the data root.

        Args:
            field: its text replaces ``{}`` in ``form``.
            form: the path, such as ``{}.mp4``.
        """
        name = form.replace("{}", self.text(field))
        parts = set(name.split("/"))
        if (
            name.startswith("/")
            or name[1:2] == ":"  # a drive of Windows
            or ".." in parts
            or parts <= {"", "."}
            or "\\" in name
            or "\0" in name
        ):
            raise self.expected(field, "a relative path without .. and backslashes")
        longest = max(len(part.encode()) for part in parts)
        if longest > _LONGEST_NAME or len(name.encode()) > _LONGEST_PATH:
            raise self.expected(field, "a path that a file system can hold")
        return name

    def child(self, field: str) -> "Record":
        """The object in a field."""
        if field not in self.fields:
            raise self.expected(field, "an object")
        return _record(self.path, f"{self.place}, {field}", self.fields[field], ())

    def children(self, field: str, *ids: str) -> "list[Record]":
        """The list of one or more objects in a field; ``ids`` as in ``read_records``."""
        if not isinstance(self.fields.get(field), list) or not self.fields[field]:
            raise self.expected(field, "a list of objects")
        return _records(self.path, f"{self.place}, {field}", self.fields[field], ids)


def read_object(path: Path) -> Record:
    """Read a JSON file that holds one object.

    Raises:
        BadSample: the file is missing, too large, not UTF-8, not JSON or not an object.
    """
    return _record(path, "the file", _parse(_read(path), path, "the file"), ())


def read_records(path: Path, *ids: str) -> list[Record]:
    """Read a list of objects, in one of the forms of :func:`read_list`.

    Args:
        path: the file.
        ids: fields by which messages name a record; the first that exists is used.

    Raises:
        BadSample: the file is missing, too large, not UTF-8, not JSON or not a list of objects.
    """
    return _records(path, "record", read_list(path), ids)


def read_list(path: Path) -> list[Any]:
    """Read a list from a JSON or parquet file; raises BadSample as ``read_records`` does.

    A JSON file holds the list, its items one after the other (JSON Lines), or several lists. Only a
    ``.jsonl`` file may hold a single item or none.
    """
    if path.suffix == ".parquet":
        return read_rows(path, MAX_BYTES)
    values = read_values(path)
    if values and all(isinstance(value, list) for value in values):
        values = [item for items in values for item in items]
    elif len(values) == 1 and path.suffix != ".jsonl":
        raise BadSample(path, f"should hold a list of records, found {_shown(values[0])}", _REMEDY)
    if not values and path.suffix != ".jsonl":
        raise BadSample(path, "should hold a list of records, found a list of 0", _REMEDY)
    return values


def read_values(path: Path) -> list[Any]:
    """Read the JSON values of a file, each of which begins on a line of its own.

    Raises:
        BadSample: as ``read_records`` does; only a ``.jsonl`` file may be empty.
    """
    text = _read(path)
    decoder = json.JSONDecoder(object_pairs_hook=_object)
    values: list[Any] = []
    line, start = 1, _gap(text, 0)
    line += text.count("\n", 0, start)
    while start < len(text) or not (values or path.suffix == ".jsonl"):
        place = f"line {line}" if line > 1 or path.suffix == ".jsonl" else "the file"
        with _refused(path, place, text[start : start + 40]):
            value, end = decoder.raw_decode(text, start)
            after = _gap(text, end)
            if after < len(text) and "\n" not in text[end:after]:
                raise json.JSONDecodeError("Extra data", text, end)
        values.append(value)
        line += text.count("\n", start, after)
        start = after
    return values


def _read(path: Path) -> str:
    try:
        if not path.is_file():
            reason = "is a folder, not a file" if path.is_dir() else "is not a file"
            raise BadSample(path, reason, "Put the annotations there", "missing")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise BadSample(path, f"has {size} bytes, more than {MAX_BYTES}", _REMEDY)
        content = path.read_bytes()
    except OSError as error:
        raise BadSample(path, f"cannot be read ({error})", "Check its permissions") from error
    if content.startswith(b"\x1f\x8b"):
        raise BadSample(path, "is compressed", "Decompress it with gunzip")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSample(path, f"is not UTF-8 ({error.reason})", _REMEDY) from error


def _parse(text: str, path: Path, place: str) -> Any:
    with _refused(path, place, text):
        return json.loads(text, object_pairs_hook=_object)


def _gap(text: str, start: int) -> int:
    """The end of the white space that begins at ``start``."""
    found = _SPACE.match(text, start)
    assert found is not None  # it matches the empty string
    return found.end()


@contextmanager
def _refused(path: Path, place: str, text: str) -> Iterator[None]:
    """Raise BadSample if the block finds that a text is not JSON."""
    try:
        yield
    except (ValueError, RecursionError) as error:
        # The beginning tells a web page or a git-lfs pointer from a damaged file.
        reason = f"{place} is not JSON ({error}); it begins with {text[:40]!r}"
        raise BadSample(path, reason, _REMEDY) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{double!r:.60} occurs twice in one object")
    return fields


def _records(path: Path, place: str, values: list[Any], ids: Sequence[str]) -> list[Record]:
    return [_record(path, f"{place} {i}", value, ids) for i, value in enumerate(values)]


def _record(path: Path, place: str, value: Any, ids: Sequence[str]) -> Record:
    if not isinstance(value, dict):
        raise BadSample(path, f"{place} should be an object, found {_shown(value)}", _REMEDY)
    name = next((field for field in ids if isinstance(value.get(field), str | int)), None)
    return Record(path, place if name is None else f"{place} ({name} {value[name]!r:.40})", value)


def _is_text(value: object, blank: bool = False) -> TypeGuard[str]:
    return (
        isinstance(value, str)
        and (blank or bool(value.strip()))
        and _SURROGATE.search(value) is None
    )


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: object) -> str:
    """A short description of any value; nested lists can be too deep to print."""
    match value:
        case list():
            return f"a list of {len(value)}"
        case dict():
            return f"an object with {', '.join(list(value)[:8]) or 'no field'}"[:120]
        case None:
            return "null"
        case _:
            return f"{value!r:.80}"
