"""Arrays as sensor_msgs/Image."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import Image
from std_msgs.msg import Header

Pixels = NDArray[np.uint8] | NDArray[np.float32]


def image_message(pixels: Pixels, encoding: str, header: Any = None) -> Any:
    """A sensor_msgs/Image of [H, W] or [H, W, C] values."""
    height, width = pixels.shape[:2]
    message = Image(header=header or Header(), height=height, width=width, encoding=encoding, is_bigendian=0)
    message.step = pixels.strides[0]
    message.data = array.array("B", np.ascontiguousarray(pixels).tobytes())
    return message
