"""How an answer looks: its state is told apart by border, colour and mark, without reading."""

from __future__ import annotations

import html
from collections.abc import Sequence

from feature_gs_ros.query.masks_3d import State

# Border, background and mark.
LOOKS = {
    State.FOUND: ("solid", "rgba(60,180,80,0.12)", "✔"),
    State.NOT_FOUND: ("dashed", "rgba(128,128,128,0.12)", "✘"),
    State.NOT_OBSERVED: ("dotted", "rgba(245,150,30,0.22)", "?"),
}
NOT_FOUND_COLOR, NOT_OBSERVED_COLOR = (120, 120, 120), (245, 150, 30)


def state_box(title: str, state: State, lines: Sequence[str], color: tuple[int, int, int]) -> str:
    """A box with a title, the state and lines of text.

    Args:
        color: RGB of what was found, the same in the map.
    """
    border, background, mark = LOOKS[state]
    shown = {State.FOUND: color, State.NOT_FOUND: NOT_FOUND_COLOR, State.NOT_OBSERVED: NOT_OBSERVED_COLOR}[state]
    text = "".join(f"<br>{html.escape(line)}" for line in lines)
    return (
        f'<div data-state="{state.value}" style="margin:0.4em 1em;padding:0.4em 0.7em;font-size:0.85em;'
        f'line-height:1.35;border-left:6px {border} rgb{shown};background:{background}">'
        f"<b>{mark} {html.escape(title)}</b>: {state.value}{text}</div>"
    )
