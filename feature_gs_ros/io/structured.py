"""JSON and YAML from outside: read within limits, and taken apart by kind of value, so that damage is an error of ours.

A format's reader opens its file with `read_table` and asks the `Table` for each key by the kind of value that belongs
there. What isn't of that kind is an error with the key, the value (cut to a line) and what was expected: no reader
checks types itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml
from numpy.typing import NDArray

from feature_gs_ros.core.errors import FeatureGsError
from feature_gs_ros.core.text import shown
from feature_gs_ros.io.files import read_regular

MAX_JSON = 64 << 20  # bytes; parsed, they may take sixty times that
MAX_JSON_LISTS = 2_000_000  # lists and tables, of which each takes up to a hundred times its two bytes
MAX_YAML = 1 << 20  # bytes; YAML is parsed far more slowly
MAX_YAML_NODES = 100_000  # keys, values and lists
MAX_DEPTH = 64  # lists and tables in one another
MAX_DIGITS = 64  # of a number in YAML, or given as text
_T = TypeVar("_T")


_NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")


class _Loader(yaml.SafeLoader):
    """YAML's safe loader within limits: no aliases, which a few bytes repeat without end, and each key once."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.YAMLError(f"alias '*{event.anchor}' in line {event.start_mark.line + 1}: write the value out")
        self._nodes += 1
        self._depth += 1
        if self._nodes > MAX_YAML_NODES:
            raise yaml.YAMLError(f"it holds more than {MAX_YAML_NODES} values")
        if self._depth > MAX_DEPTH:
            raise yaml.YAMLError(f"it is nested deeper than {MAX_DEPTH} levels")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_scalar(self, node: Any) -> Any:
        # Numbers of base sixty, 1:0:0…, take time by the square of their length, and later more than a float holds.
        if node.tag in _NUMBER_TAGS and len(node.value) > MAX_DIGITS:
            raise yaml.YAMLError(f"a number in line {node.start_mark.line + 1} has {len(node.value)} digits")
        return super().construct_scalar(node)

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    line = key.start_mark.line + 1
                    raise yaml.YAMLError(f"key '{key.value}' is there twice, the second time in line {line}; keep one")
                seen.add((key.tag, key.value))
        return node


def parse_json(text: str | bytes, source: str, error: type[FeatureGsError]) -> object:
    """The value of a JSON text.

    Raises:
        error: it is none, or beyond `MAX_JSON`, `MAX_JSON_LISTS` or `MAX_DEPTH`.
    """
    if len(text) > MAX_JSON:
        raise error(f"{source} has {len(text)} bytes of JSON, at most {MAX_JSON} are read", code=f"{error.code}.size")
    lists = text.count("[") + text.count("{") if isinstance(text, str) else text.count(b"[") + text.count(b"{")
    if lists > MAX_JSON_LISTS:
        raise error(
            f"{source} holds {lists} lists and tables, at most {MAX_JSON_LISTS} are read", code=f"{error.code}.size"
        )
    try:
        value: object = json.loads(text)
        _check_depth(value)
    except (ValueError, RecursionError) as cause:
        raise error(f"{source} is not JSON: {_reason(cause)}", code=f"{error.code}.syntax") from cause
    return value


def parse_yaml(text: str, source: str, error: type[FeatureGsError]) -> object:
    """The value of a YAML text; tags of Python's, aliases and repeated keys are refused.

    Raises:
        error: it is none, or beyond `MAX_YAML`, `MAX_YAML_NODES` or `MAX_DEPTH`.
    """
    if len(text) > MAX_YAML:
        raise error(f"{source} has {len(text)} bytes of YAML, at most {MAX_YAML} are read", code=f"{error.code}.size")
    try:
        value: object = yaml.load(text, _Loader)
    except (ValueError, yaml.YAMLError, RecursionError, TypeError, LookupError, AttributeError, OverflowError) as cause:
        # Beside its own errors: dates that there aren't are a ValueError, odd tags a TypeError, LookupError and so on.
        raise error(f"{source} is not YAML: {_reason(cause)}", code=f"{error.code}.syntax") from cause
    return value


def read_structured(path: Path, error: type[FeatureGsError]) -> object:
    """The content of a JSON or YAML file, which has the suffix ``.json``.

    Raises:
        error: the file is missing, is neither, is too large or nested too deep, or YAML has an alias or a key twice.
    """
    is_json = path.suffix == ".json"
    try:
        text = read_regular(path, MAX_JSON if is_json else MAX_YAML).decode("utf-8-sig")
    except OSError as cause:
        raise error(f"can't read '{path}': {cause.strerror}", code=f"{error.code}.unreadable") from cause
    except UnicodeDecodeError as cause:
        raise error(f"'{path}' is not text in UTF-8", code=f"{error.code}.syntax") from cause
    except ValueError as cause:  # a null byte in the name
        raise error(f"can't read '{path}': {cause}", code=f"{error.code}.unreadable") from cause
    # YAML takes most JSON too, but reads 1e-05 as a string.
    return (parse_json if is_json else parse_yaml)(text, f"'{path}'", error)


def read_mapping(path: Path, error: type[FeatureGsError]) -> Mapping[object, object]:
    """The same, for a file that must hold key: value pairs, with keys of any kind.

    Raises:
        error: the file is missing, damaged or holds something else.
    """
    content = read_structured(path, error)
    if not isinstance(content, Mapping):
        raise error(f"'{path}' holds no key: value pairs but {type(content).__name__}", code=f"{error.code}.value")
    return content


def read_table(path: Path, error: type[FeatureGsError]) -> Table:
    """The same, to be taken apart.

    Raises:
        error: the file is missing, damaged or holds something else.
    """
    return Table(read_structured(path, error), f"'{path}'", error)


class Table:
    """Key: value pairs from outside. Each method takes one kind of value, or raises the table's error.

    Args:
        content: what a parser gave.
        source: names the table in messages, e.g. a quoted path.
        error: the class to raise.

    Raises:
        error: ``content`` is not a table.
    """

    def __init__(self, content: object, source: str, error: type[FeatureGsError]) -> None:
        self.source, self.error = source, error
        if not isinstance(content, Mapping):
            given = "missing" if content is None else type(content).__name__
            raise self._wrong(f"{source} is {given}, expected key: value pairs")
        self._values: dict[str, object] = {str(key): value for key, value in content.items()}

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        """Its keys, in the file's order."""
        return iter(self._values)

    def raising(self, error: type[FeatureGsError], source: str | None = None) -> Table:
        """The same table with another error, or another name."""
        return Table(self._values, source or self.source, error)

    def over(self, defaults: Table) -> Table:
        """This table's values, and those of ``defaults`` under the keys that it lacks."""
        return Table({**defaults._values, **self._values}, self.source, self.error)

    def only(self, keys: Iterable[str]) -> Table:
        """The table itself, if it has no other keys."""
        known = list(keys)
        unknown = [key for key in self._values if key not in known]
        if unknown:
            raise self._wrong(f"{self.source} holds {', '.join(unknown[:8])}; it takes {', '.join(known)}")
        return self

    def get(self, key: str) -> object:
        """The value as it is, None where the key is missing."""
        return self._values.get(key)

    def boolean(self, key: str, default: bool | None = None) -> bool:
        """True or false."""
        if key not in self._values and default is not None:
            return default
        value = self._required(key)
        if not isinstance(value, bool):
            raise self._expected(key, "true or false")
        return value

    def number(
        self, key: str, default: float | None = None, *, least: float = -math.inf, most: float = math.inf
    ) -> float:
        """A finite number; a string of one counts, as YAML takes 1e-05 for a string."""
        if key not in self._values and default is not None:
            return default
        value = _finite(self._required(key))
        if value is None or not least <= value <= most:
            raise self._expected(key, f"a finite number{_range(least, most)}")
        return value

    def whole(self, key: str, default: int | None = None, *, least: float = -math.inf, most: float = math.inf) -> int:
        """A whole number; 640.0 counts as one."""
        if key not in self._values and default is not None:
            return default
        value = self._required(key)
        if isinstance(value, int) and not isinstance(value, bool):
            whole: int | None = value
        else:
            number = _finite(value)
            whole = int(number) if number is not None and number == int(number) else None
        if whole is None or not least <= whole <= most:
            raise self._expected(key, f"a whole number{_range(least, most)}")
        return whole

    def text(self, key: str, default: str | None = None, *, empty: bool = True) -> str:
        """A string; ``empty``: whether it may be one without a character."""
        if key not in self._values and default is not None:
            return default
        value = self._required(key)
        if not isinstance(value, str) or not (value or empty):
            raise self._expected(key, "text")
        return value

    def choice(self, key: str, choices: Sequence[_T]) -> _T:
        """One of a few values."""
        value = self._required(key)
        for choice in choices:
            if type(value) is type(choice) and value == choice:
                return choice
        raise self._expected(key, f"one of {', '.join(map(str, choices))}")

    def numbers(self, key: str, *counts: int) -> tuple[float, ...]:
        """A list of finite numbers, or of lists of them, row after row; as many in all as one of ``counts`` says."""
        value = self._required(key)
        if not isinstance(value, list | tuple):
            raise self._expected(key, "a list of numbers")
        flat = [item for row in value for item in (row if isinstance(row, list | tuple) else [row])]
        values = tuple(number for item in flat if (number := _finite(item)) is not None)
        if len(values) < len(flat):
            bad = next(item for item in flat if _finite(item) is None)
            raise self._wrong(f"'{key}' of {self.source} holds {shown(bad)}, expected finite numbers")
        if counts and len(values) not in counts:
            wanted = " or ".join(map(str, counts))
            raise self._wrong(f"'{key}' of {self.source} holds {len(values)} numbers, expected {wanted}")
        return values

    def array(self, key: str, *shapes: tuple[int, ...]) -> NDArray[np.float64]:
        """An array of one of the shapes; NaN and infinity are let through, as exporters write them for a lost pose."""
        try:
            array = np.asarray(self._required(key), dtype=np.float64)
        except (TypeError, ValueError, OverflowError) as cause:
            raise self._expected(key, "rows of numbers") from cause
        if array.shape not in shapes:
            wanted = " or ".join(map(str, shapes))
            raise self._wrong(f"'{key}' of {self.source} has shape {array.shape}, expected {wanted}")
        return array

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        values = self._list(key)
        if not all(isinstance(value, str) for value in values):
            raise self._expected(key, "a list of texts")
        return tuple(str(value) for value in values)

    def table(self, key: str) -> Table:
        """A table within this one."""
        return Table(self._required(key), f"'{key}' of {self.source}", self.error)

    def tables(self, key: str) -> list[Table]:
        """A list of tables."""
        return [
            Table(value, f"entry {index} of '{key}' of {self.source}", self.error)
            for index, value in enumerate(self._list(key))
        ]

    def named_tables(self, key: str) -> dict[str, Table]:
        """A table of tables, one or more, by their names."""
        entries = self.table(key)
        if not entries._values:
            raise self._wrong(f"'{key}' of {self.source} is empty")
        return {
            name: Table(value, f"'{name}' of {entries.source}", self.error) for name, value in entries._values.items()
        }

    def _list(self, key: str) -> Sequence[object]:
        value = self._required(key)
        if not isinstance(value, list | tuple):
            raise self._expected(key, "a list")
        return value

    def _required(self, key: str) -> object:
        if key not in self._values:
            raise self._wrong(f"{self.source} lacks '{key}'")
        return self._values[key]

    def _expected(self, key: str, kind: str) -> FeatureGsError:
        return self._wrong(f"'{key}' of {self.source} is {shown(self._values.get(key))}, expected {kind}")

    def _wrong(self, message: str) -> FeatureGsError:
        return self.error(message, code=f"{self.error.code}.value")


def _check_depth(value: object) -> None:
    """Raise a ValueError where lists and tables lie deeper in one another than `MAX_DEPTH`."""
    level = [value] if isinstance(value, list | dict) else []
    for _ in range(MAX_DEPTH):
        entries = (entry for one in level for entry in (one.values() if isinstance(one, dict) else one))
        level = [entry for entry in entries if isinstance(entry, list | dict)]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")


def _range(least: float, most: float) -> str:
    if least == -math.inf and most == math.inf:
        return ""
    if most == math.inf:
        return f" of {least:g} or more"
    return f" from {least:g} to {most:g}"


def _reason(cause: Exception) -> str:
    if isinstance(cause, RecursionError):
        return "it is nested too deep"
    return (str(cause).splitlines() or [type(cause).__name__])[0]


def _finite(value: object) -> float | None:
    """The value as a float; a string counts, as YAML takes 1e-05 for one."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and len(value) > MAX_DIGITS:
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None
