"""The bytes of a ``uint8[]`` field, whatever holds them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.errors import FeatureGsError, ImageError


def byte_array(data: Any, source: str, error: type[FeatureGsError] = ImageError) -> NDArray[np.uint8]:
    """A view [M] of the bytes where they are in memory, else a copy.

    rclpy gives ``array.array``, ``rosbags`` a numpy array; from Lyrical on it may be a ``rosidl_buffer.Buffer`` whose
    bytes lie on another device, and which has no buffer of Python's but ``to_bytes``.

    Raises:
        FeatureGsError: they can't be read; of the class ``error``.
    """
    try:
        return np.frombuffer(data, dtype=np.uint8)
    except (TypeError, ValueError, BufferError) as cause:
        if hasattr(data, "__len__") and len(data) == 0:  # of which numpy makes no array
            return np.empty(0, np.uint8)
        if isinstance(data, list | tuple):
            return np.asarray(data, dtype=np.uint8)
        to_bytes = getattr(data, "to_bytes", None)
        if to_bytes is None:
            raise error(
                f"the bytes of '{source}' are a {type(data).__name__}, which can't be read; publish them from the host",
                code=f"{error.code}.buffer",
            ) from cause
    try:
        return np.frombuffer(to_bytes(), dtype=np.uint8)
    except Exception as cause:  # a driver's
        raise error(
            f"the bytes of '{source}' can't be copied from their device: {cause}; publish them from the host",
            code=f"{error.code}.buffer",
        ) from cause
