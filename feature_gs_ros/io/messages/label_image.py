"""Label images of a detector in sensor_msgs/Image, and the names of their values, to a class per pixel.

Nothing of ROS is imported, as in `image`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.errors import ImageError
from feature_gs_ros.core.text import shown
from feature_gs_ros.io.images import MAX_PIXELS
from feature_gs_ros.io.masks import IGNORED
from feature_gs_ros.io.messages.buffers import byte_array

_SAMPLE_TYPES = {"mono8": "u1", "8UC1": "u1", "mono16": "u2", "16UC1": "u2", "32SC1": "i4"}
_VALUES = 1 << 16


def decode_labels(message: Any, source: str) -> NDArray[np.uint16]:
    """The values [H, W] of a label image.

    Args:
        message: sensor_msgs/Image of mono8, 8UC1, mono16, 16UC1 or 32SC1.
        source: its topic, for the error message.

    Raises:
        ImageError: another encoding, damaged, too large, or values that 16 bits don't hold.
    """
    if message.encoding not in _SAMPLE_TYPES:
        raise ImageError(
            f"'{source}' has the encoding {shown(message.encoding)}; publish labels as {', '.join(_SAMPLE_TYPES)}",
            code="image.format",
        )
    kind = np.dtype(_SAMPLE_TYPES[message.encoding]).newbyteorder(">" if message.is_bigendian else "<")
    width, height, step = int(message.width), int(message.height), int(message.step)
    row_bytes = width * kind.itemsize
    data = byte_array(message.data, source)
    if not 0 < width * height <= MAX_PIXELS or step < row_bytes or len(data) < (height - 1) * step + row_bytes:
        raise ImageError(
            f"'{source}' holds {len(data)} bytes in rows of {step} for {width}×{height} pixels of '{message.encoding}'",
            code="image.damaged",
        )
    packed = np.lib.stride_tricks.as_strided(data, (height, row_bytes), (step, 1), writeable=False)
    values = np.ascontiguousarray(packed).view(kind)
    if kind.itemsize == 4 and (values.min() < 0 or values.max() >= _VALUES):
        raise ImageError(f"'{source}' holds values that aren't 0 to {_VALUES - 1}", code="image.value")
    labels: NDArray[np.uint16] = values.astype(np.uint16)
    return labels


def names_of_values(message: Any) -> dict[int, str]:
    """Names by value: of vision_msgs/LabelInfo the classes', of Detection2DArray the objects', by their ``id``.

    An object goes by its likeliest hypothesis; ids that are no whole numbers are left out.
    """
    if hasattr(message, "class_map"):
        return {int(entry.class_id): str(entry.class_name) for entry in message.class_map}
    names: dict[int, str] = {}
    for detection in message.detections:
        hypotheses = [result.hypothesis for result in detection.results]
        if hypotheses and str(detection.id).isdecimal() and len(str(detection.id)) < 6:
            names[int(detection.id)] = str(max(hypotheses, key=lambda entry: entry.score).class_id)
    return names


def with_classes(
    labels: NDArray[np.uint16], names: Mapping[int, str], classes: Mapping[int, str]
) -> NDArray[np.uint16]:
    """Labels [H, W] whose values go by ``names``, with the values that ``classes`` give these names.

    What has no name, or one that is no class, is background 0 where that is a class, else it doesn't count.
    """
    values = {name: value for value, name in classes.items()}
    table = np.full(_VALUES, 0 if 0 in classes else IGNORED, np.uint16)
    for value, name in names.items():
        if 0 <= value < _VALUES and name in values:
            table[value] = values[name]
    classed: NDArray[np.uint16] = table[labels]
    return classed
