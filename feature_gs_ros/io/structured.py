"""JSON and YAML files whose damage is an error of ours, and numbers out of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from feature_gs_ros.core.errors import FeatureGsError


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, but a key that is there twice is an error, as YAML has it."""

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


def read_structured(path: Path, error: type[FeatureGsError]) -> object:
    """The content of a JSON or YAML file, told apart by the suffix ``.json``.

    Raises:
        error: the file is missing or is neither, or YAML says a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as cause:
        raise error(f"can't read '{path}': {cause.strerror}") from cause
    except UnicodeDecodeError as cause:
        raise error(f"'{path}' is not text in UTF-8") from cause
    try:
        # YAML takes most JSON too, but reads 1e-05 as a string.
        return json.loads(text) if path.suffix == ".json" else yaml.load(text, _Loader)
    except (ValueError, yaml.YAMLError, RecursionError) as cause:  # YAML's dates raise a bare ValueError
        language = "JSON" if path.suffix == ".json" else "YAML"
        reason = str(cause).splitlines()[0]
        raise error(f"'{path}' is not {language}: {reason}") from cause


def read_mapping(path: Path, error: type[FeatureGsError]) -> Mapping[object, object]:
    """The same, for a file that must hold key: value pairs.

    Raises:
        error: the file is missing, damaged or holds something else.
    """
    content = read_structured(path, error)
    if not isinstance(content, Mapping):
        raise error(f"'{path}' holds no key: value pairs but {type(content).__name__}")
    return content


def number(values: Mapping[str, object], key: str, source: str, error: type[FeatureGsError]) -> float:
    """A finite number under a key.

    Raises:
        error: it is missing, or no finite number.
    """
    if key not in values:
        raise error(f"{source} lacks '{key}'")
    value = _finite(values[key])
    if value is None:
        raise error(f"'{key}' of {source} is {values[key]!r}, expected a finite number")
    return value


def whole_number(values: Mapping[str, object], key: str, source: str, error: type[FeatureGsError]) -> int:
    """A whole number under a key; 640.0 counts as one.

    Raises:
        error: it is missing, or no whole number.
    """
    value = number(values, key, source, error)
    if value != int(value):
        raise error(f"'{key}' of {source} is {value}, expected a whole number")
    return int(value)


def numbers(value: object, what: str, error: type[FeatureGsError]) -> tuple[float, ...]:
    """A list of finite numbers, or of lists of them, row after row.

    Raises:
        error: it is something else; ``what`` names it.
    """
    if not isinstance(value, list | tuple):
        given = "missing" if value is None else type(value).__name__
        raise error(f"{what} is {given}, expected a list of numbers")
    flat = [item for row in value for item in (row if isinstance(row, list | tuple) else [row])]
    values = tuple(_finite(item) for item in flat)
    if None in values:
        raise error(f"{what} holds {flat[values.index(None)]!r}, expected finite numbers")
    return tuple(item for item in values if item is not None)


def _finite(value: object) -> float | None:
    """The value as a float; a string counts, as YAML takes 1e-05 for one."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None
