"""What further formats share: libraries of the extra ``formats``, imported when a file asks for one, and a check."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.errors import MapError


def need(module: str, form: str) -> Any:
    """A module that a format is read by.

    Raises:
        MapError: it isn't installed, or can't be loaded here.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MapError(
            f'{form} needs {module.partition(".")[0]} ({error}): pip install "feature_gs_ros[formats]", or convert the '
            "file to PLY with splat-transform",
            code="map.extra",
        ) from error


def check_linear(scales: NDArray[np.float32], opacities: NDArray[np.float32], source: str) -> None:
    """Raise a MapError where a format of linear values holds what a PLY does: logarithms and logits."""
    if np.median(scales) <= 0:
        raise MapError(
            f"scales of {source} are negative, so logarithms; the format's are linear: export it again",
            code="map.format",
        )
    if np.nanmin(opacities) < -0.01 or np.nanmax(opacities) > 1.01:
        raise MapError(
            f"opacities of {source} reach from {np.nanmin(opacities):.3g} to {np.nanmax(opacities):.3g}, so they are "
            "logits; the format's are from 0 to 1: export it again",
            code="map.format",
        )
