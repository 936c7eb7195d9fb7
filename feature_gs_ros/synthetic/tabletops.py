"""The scenes: the demo's tabletop, three mugs for affordance transfer, a grid of many objects for identities."""

from __future__ import annotations

import numpy as np

from feature_gs_ros.synthetic.props import (
    banana,
    half_orange,
    mug,
    orange,
    screwdriver,
    small_solid,
    table,
    wine_bottle,
)
from feature_gs_ros.synthetic.scene import Material, Pattern, Scene

MAX_GRID_OBJECTS = 254  # 255 means "ignored" in masks of 8 bits


def tabletop() -> Scene:
    """Mug, bottle, orange (a whole and a half one), banana and screwdriver on a wooden table."""
    return Scene(
        (
            table(),
            mug(position=(-0.15, -0.05, 0.0), heading=-35.0),
            wine_bottle(position=(0.16, 0.10, 0.0), heading=20.0),
            orange(position=(0.02, -0.11, 0.0), tilt=25.0),
            half_orange(position=(-0.045, -0.155, 0.0), tilt=38.0, heading=-25.0),
            banana(position=(0.19, -0.09, 0.0), heading=30.0),
            screwdriver(position=(-0.13, 0.12, 0.0), heading=15.0),
        )
    )


def mugs() -> Scene:
    """Three mugs of different size, colour and pose, one of them lying, among fruit and a bottle.

    Labels ``mug_red``, ``mug_blue``, ``mug_stone``; parts ``mug_red_handle`` and so on: a handle marked on one is to
    be found on the others.
    """
    blue = Material((0.025, 0.10, 0.36), (0.75, 0.74, 0.70), pattern=Pattern.BANDS, scale=0.045, gloss=0.5)
    stone = Material((0.62, 0.56, 0.46), (0.16, 0.11, 0.07), pattern=Pattern.SPECKLES, scale=0.0016, gloss=0.35)
    return Scene(
        (
            table(),
            mug("mug_red", (-0.17, -0.07, 0.0), heading=-40.0),
            mug("mug_blue", (0.14, -0.09, 0.0), heading=65.0, glaze=blue, radius=0.036, height=0.082, lying=True),
            mug("mug_stone", (0.02, 0.13, 0.0), heading=160.0, glaze=stone, radius=0.047, height=0.112),
            wine_bottle(position=(0.24, 0.13, 0.0), heading=60.0),
            orange(position=(-0.02, -0.02, 0.0), tilt=15.0),
            banana(position=(-0.18, 0.12, 0.0), heading=-25.0),
        )
    )


def objects_grid(count: int = 200, seed: int = 0) -> Scene:
    """``count`` small objects of random shapes, colours and headings in a grid on the table, ``object_1`` and so on.

    Raises:
        ValueError: ``count`` is not 1 to 254: the labels wouldn't fit masks of 8 bits.
    """
    if not 1 <= count <= MAX_GRID_OBJECTS:
        raise ValueError(f"count={count} objects; choose 1 to {MAX_GRID_OBJECTS}")
    rng = np.random.default_rng(seed)
    columns = int(np.ceil(np.sqrt(count * 4 / 3)))
    rows = int(np.ceil(count / columns))
    pitch = min(0.9 / columns, 0.66 / rows)
    objects = []
    for index in range(count):
        row, column = divmod(index, columns)
        x, y = (column - (columns - 1) / 2) * pitch, (row - (rows - 1) / 2) * pitch
        objects.append(small_solid(f"object_{index + 1}", (x, y, 0.0), 0.36 * pitch, rng))
    return Scene((table(), *objects))
