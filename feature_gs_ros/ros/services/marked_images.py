"""An image on which a request marks a part: sent along, or a camera's last frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.affordance import box_labels
from feature_gs_ros.affordance.patches import IGNORE
from feature_gs_ros.core.camera import Image, rectified
from feature_gs_ros.core.errors import AffordanceError, NoTransformError
from feature_gs_ros.io.messages.image import decode_image
from feature_gs_ros.io.messages.transform import stamp_ns
from feature_gs_ros.ros.nodes.session import Session

MARK = 1  # label of what is marked


@dataclass(frozen=True, eq=False)
class MarkedImage:
    """A rectified image and its annotation."""

    image: Image  # [H, W, 3]
    labels: NDArray[np.uint8]  # [H, W]: MARK, 0, or IGNORE where pixels don't count
    name: str  # of the frame; empty where it is none


def marked_image(session: Session, request: Any) -> MarkedImage:
    """What an AddAffordance request marks.

    Raises:
        AffordanceError: nothing is marked, mask and image don't belong together, or the camera gives no images.
        ImageError: an image can't be decoded.
        NoTransformError: no frame of the camera was used yet.
        ParameterError: there is no camera of this name.
    """
    if not request.camera:
        image = decode_image(request.image, "the image")
        return MarkedImage(image, _marks(request, image.shape[0], image.shape[1]).astype(np.uint8), "")
    last = session.camera(request.camera).last
    if last is None:
        raise NoTransformError(f"no frame of the camera '{request.camera}' was used yet", code="transform.no-frame")
    if last.image is None:
        raise AffordanceError(
            f"camera '{request.camera}' gives feature grids; send the image along", code="affordance.unsupported"
        )
    stamp = stamp_ns(request.mask.header.stamp)
    if stamp not in (0, last.stamp):
        raise AffordanceError(
            f"the mask's stamp is {stamp}, the last frame's of '{request.camera}' {last.stamp}: send the image along",
            code="affordance.stamp",
        )
    marked = _marks(request, last.lens.height, last.lens.width)  # on the image as it came, through its lens
    labels = (rectified(marked.astype(np.uint8) * 255, last.lens)[0] > 127).astype(np.uint8)
    if last.counts is not None:
        labels[~last.counts] = IGNORE
    return MarkedImage(last.image, labels, last.name)


def _marks(request: Any, height: int, width: int) -> NDArray[np.bool_]:
    """What mask or box mark, [H, W]."""
    if request.mask.width or request.mask.height:
        marked: NDArray[np.bool_] = np.asarray(decode_image(request.mask, "the mask").any(axis=2))
        if marked.shape != (height, width):
            raise AffordanceError(
                f"the mask is {marked.shape[1]}×{marked.shape[0]} pixels, the image {width}×{height}; "
                "mark the image at its own size",
                code="affordance.size",
            )
        return marked
    box = request.box
    if not box.width or not box.height:
        raise AffordanceError("nothing is marked; give a mask or a box", code="affordance.missing")
    left, top = float(box.x_offset), float(box.y_offset)
    return box_labels(height, width, (left, top, left + box.width, top + box.height)) > 0
