"""Text from files, messages and networks, made fit to be shown: no control characters, and no more than fits."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice
from typing import TypeVar

MAX_VALUE = 80  # characters of a value shown in a message
MAX_MESSAGE = 4000  # characters of a message: a few lists of names, but no file

# Control characters (escape sequences begin with one), line and paragraph separators, those that turn the direction
# of writing or hide, and lone surrogates, which stand for bytes that aren't UTF-8.
_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff"
_UNPRINTABLE = re.compile(f"[{_CONTROLS}]")
_UNPRINTABLE_OR_BREAK = re.compile(f"[\t\n{_CONTROLS}]")

_Entry = TypeVar("_Entry")


def printable(text: object, *, lines: bool = False, limit: int | None = None) -> str:
    """Text that a terminal or log shows as it is: what would act on it is written as an escape, ``\\x1b``.

    Args:
        text: from anywhere; anything but a string is shown as ``str`` shows it.
        lines: keep line ends and tabs, for tables; else the result is a single line.
        limit: the most characters to show; the middle of a longer text is left out.
    """
    escaped = (_UNPRINTABLE if lines else _UNPRINTABLE_OR_BREAK).sub(_escaped, str(text))
    if limit is None or len(escaped) <= limit:
        return escaped
    half = max(1, limit // 2 - 8)
    return f"{escaped[:half]} … {escaped[-half:]}"


def shown(value: object) -> str:
    """A value of a file or message for an error: as ``repr`` shows it, on one line of at most `MAX_VALUE` characters.

    Long containers are not walked: a few bytes of YAML or JSON may stand for gigabytes of text.
    """
    return printable(_summary(value, depth=2), limit=MAX_VALUE)


def _summary(value: object, depth: int) -> str:
    if isinstance(value, str | bytes):
        return repr(value[: 2 * MAX_VALUE])
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 1024:
        return f"a whole number of {value.bit_length()} bits"  # Python refuses to write those of many digits
    if isinstance(value, dict):
        items = [f"{_summary(k, 0)}: {_summary(v, depth - 1)}" for k, v in _first(value.items())] if depth else []
        return "{" + ", ".join(items + ["…"] * (len(value) > len(items))) + "}"
    if isinstance(value, list | tuple | set | frozenset):
        items = [_summary(entry, depth - 1) for entry in _first(value)] if depth else []
        return "[" + ", ".join(items + ["…"] * (len(value) > len(items))) + "]"
    return repr(value)[: 2 * MAX_VALUE]


def _first(values: Iterable[_Entry]) -> list[_Entry]:
    return list(islice(values, 8))


def _escaped(match: re.Match[str]) -> str:
    code = ord(match.group())
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"  # the byte that a surrogate of Python's stands for
    named = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return named.get(match.group()) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
