"""What stands in all images: a gripper has an outline that stands, too; a wall of one colour doesn't."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from feature_gs_ros.core.camera import Camera, Frame, Image
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.doctor.arm_mask import constant_pixels
from feature_gs_ros.doctor.evidence import Evidence
from feature_gs_ros.synthetic.faults import AlteredStream

CAMERA = Camera(160, 120, 140.0, 140.0, 80.0, 60.0)


def images(count: int = 8) -> list[Image]:
    """A patterned table whose far edge comes and goes below a wall of one colour."""
    rng = np.random.default_rng(0)
    pattern = cv2.resize(rng.integers(0, 255, (40, 60, 3)).astype(np.uint8), (600, 400), interpolation=cv2.INTER_LINEAR)
    taken = []
    for _ in range(count):
        x, y, edge = int(rng.integers(0, 430)), int(rng.integers(0, 270)), int(rng.integers(44, 60))
        image = pattern[y : y + 120, x : x + 160].copy()
        image[:edge] = (205, 201, 190)
        taken.append(image)
    return taken


def examined(taken: list[Image]) -> np.ndarray | None:
    frames = [Frame(str(k), CAMERA, np.eye(4), lambda image=image: image) for k, image in enumerate(taken)]
    return constant_pixels(Evidence.of(AlteredStream("drawn", frames), None, Sim3.identity()))


def test_a_wall_is_no_arm() -> None:
    assert examined(images()) is None


def test_a_lens_s_black_rim_is_no_arm() -> None:
    taken = images()
    for image in taken:
        cv2.ellipse(image, (80, 60), (110, 82), 0, 0, 360, (0, 0, 0), 40)
    assert examined(taken) is None


@pytest.mark.parametrize("shade", [70, 130])
def test_a_gripper_is_found_where_it_is(shade: int) -> None:
    taken = images()
    for image in taken:
        cv2.rectangle(image, (60, 90), (110, 120), (shade, shade, shade + 4), -1)
    mask = examined(taken)
    assert mask is not None
    rows, columns = np.nonzero(mask)
    scale = 160 / mask.shape[1]
    assert scale * columns.mean() == pytest.approx(85, abs=6)
    assert scale * rows.mean() == pytest.approx(105, abs=6)
