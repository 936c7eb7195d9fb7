"""Lens models against OpenCV's own projection, and the inverse against the forward model."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from feature_gs_ros.core.camera import Distortion
from feature_gs_ros.core.lens import distorted, undistorted

RADIAL = (0.1, -0.02, 0.001, -0.002, 0.003, 0.02, -0.01, 0.001)
POINTS = np.stack(np.meshgrid(np.linspace(-0.6, 0.6, 7), np.linspace(-0.4, 0.4, 5)), axis=-1).reshape(-1, 2)


@pytest.mark.parametrize(
    "coefficients",
    [
        RADIAL,
        (*RADIAL, 0.01, -0.02, 0.003, 0.004),
        (*RADIAL, 0.01, -0.02, 0.003, 0.004, 0.05, -0.03),
        (*RADIAL, 0, 0, 0, 0, 0.2, 0.0),
    ],
)
def test_the_rational_model_is_opencvs(coefficients: tuple[float, ...]) -> None:
    lens = Distortion("rational_polynomial", coefficients)
    rays = np.column_stack([POINTS, np.ones(len(POINTS))])
    expected, _ = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), np.eye(3), np.array(coefficients))
    np.testing.assert_allclose(distorted(POINTS, lens), expected[:, 0], atol=1e-9)
    np.testing.assert_allclose(undistorted(distorted(POINTS, lens), lens), POINTS, atol=1e-7)
