"""Keys of a stream's file that nobody here reads: reported, as one of them may change the geometry."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Sequence

from feature_gs_ros.core.text import shown
from feature_gs_ros.io.structured import Table

_ALIKE = 0.8  # difflib's ratio from which a key is taken for another one misspelt
_SHOWN = 8

log = logging.getLogger(__name__)


def report_unknown_keys(tables: Sequence[Table], known: Collection[str], *, refuse_misspelt: bool = False) -> None:
    """Warn of keys that aren't known, once for all tables of a kind, with the known key that each resembles.

    Args:
        refuse_misspelt: for a format of our own, whose known keys nobody else writes in another spelling.

    Raises:
        the tables' error: ``refuse_misspelt``, and an unknown key resembles a known one that its table lacks.
    """
    unknown: dict[str, Table] = {}
    for table in tables:
        unknown |= {key: table for key in table if key not in known and key not in unknown}
    unread = []
    for key, table in list(unknown.items())[:_SHOWN]:
        near = difflib.get_close_matches(key, [other for other in known if other not in table], 1, _ALIKE)
        if near and refuse_misspelt:
            raise table.error(
                f"{table.source} holds {shown(key)}, which is unknown; is '{near[0]}' meant?",
                code=f"{table.error.code}.key",
            )
        unread.append(f"{shown(key)}{f' (is {near[0]} meant?)' if near else ''}")
    if unread:
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        log.warning(
            "%s holds keys that aren't read: %s%s", next(iter(unknown.values())).source, ", ".join(unread), more
        )
