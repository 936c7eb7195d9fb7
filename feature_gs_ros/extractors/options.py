"""Options of an extractor as they come from a command line or a file: each of the type that its class asks for."""

from __future__ import annotations

import inspect
import math
import re
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from feature_gs_ros.core.errors import ExtractorError
from feature_gs_ros.io.structured import parse_yaml

_EXPONENT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}


def parse_options(texts: Sequence[str]) -> dict[str, object]:
    """``KEY=VALUE`` words as keyword arguments of an extractor; values are YAML: 3 is a number, [a, b] a list.

    Raises:
        ExtractorError: no =, no key, the same key twice, or a value that is not YAML.
    """
    options: dict[str, object] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise ExtractorError(f"--option '{text}' is not KEY=VALUE, e.g. model=vitb14", code="extractor.value")
        if key in options:
            raise ExtractorError(f"--option {key} is given twice; give it once", code="extractor.duplicate")
        try:
            options[key] = parse_yaml(value, f"--option '{text}'", ExtractorError)
        except ExtractorError as error:
            raise ExtractorError(f"{error}; quote it, e.g. {key}='\"…\"'", code="extractor.option") from error
    return options


def checked_options(name: str, factory: Callable[..., object], options: Mapping[str, object]) -> dict[str, object]:
    """The options, numbers as the class asks for them: YAML reads 1e6 as text, and 1e6 pixels are a whole number.

    Args:
        name: of the extractor, for messages.
        factory: its class or function; what it doesn't annotate, or annotates by other types, is taken as it is.

    Raises:
        ExtractorError: one has another type.
    """
    try:
        hints = get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    except (NameError, TypeError):  # a third party's annotations that can't be resolved
        hints = {}
    return {key: _checked(name, key, value, hints.get(key, Any)) for key, value in options.items()}


def _checked(name: str, key: str, value: object, hint: Any) -> object:
    choices = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if int in choices or float in choices:
        value = _as_number(value, whole=float not in choices)
    if not any(_fits(value, choice) for choice in choices):
        wanted = " or ".join(_described(choice) for choice in choices if choice is not type(None))
        fix = f"; text is quoted: {key}='\"{value}\"'" if str in choices and not isinstance(value, str) else ""
        raise ExtractorError(
            f"the option {key}={value} of the extractor '{name}' is not {wanted}{fix}", code="extractor.option"
        )
    return value


def _as_number(value: object, whole: bool) -> object:
    """A number that YAML took for text, and a whole one where that is asked for; what is none stays."""
    if isinstance(value, str) and _EXPONENT.fullmatch(value):
        value = float(value)
    return int(value) if whole and isinstance(value, float) and value.is_integer() else value


def _fits(value: object, hint: Any) -> bool:
    origin, arguments = get_origin(hint) or hint, get_args(hint)
    if origin is type(None):
        return value is None
    if origin in (int, float):
        number = isinstance(value, int) or (origin is float and isinstance(value, float) and math.isfinite(value))
        return number and not isinstance(value, bool)
    if origin in (str, bool, Path):
        return isinstance(value, origin)
    if origin is Mapping:
        # Keys come as text from JSON, as numbers from YAML.
        return isinstance(value, Mapping) and all(_fits(entry, arguments[1]) for entry in value.values())
    if origin is Sequence:
        return isinstance(value, (list, tuple)) and all(_fits(entry, arguments[0]) for entry in value)
    return True


def _described(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Mapping:
        return f"a table {{value: {_described(arguments[1])}}}"
    if origin is Sequence:
        return f"a list [{_described(arguments[0])}, …]"
    return _WORDS.get(hint, str(hint))
