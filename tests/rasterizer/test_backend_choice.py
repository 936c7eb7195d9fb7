"""Backends by name, and the limits of the reference."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import random_map

from feature_gs_ros import rasterizer
from feature_gs_ros.core.camera import Camera
from feature_gs_ros.rasterizer import get_backend
from tests.errors import raises


def test_a_backend_is_made_once_and_passed_through() -> None:
    cpu = get_backend("cpu")
    assert get_backend("cpu") is cpu
    assert get_backend(cpu) is cpu
    assert cpu.name == "cpu"
    assert get_backend("auto").name in ("cpu", "cuda")
    view = rasterizer.view(random_map(0), Camera(9, 9, 9, 9, 4, 4), np.eye(4), "reference")
    assert view.backend is get_backend("reference")


@pytest.mark.parametrize("name", ["metal", "cuda:", "cuda:x", "cuda:-1", "cpu:0", ""])
def test_unknown_names_are_refused(name: str) -> None:
    with raises("backend.unknown"):
        get_backend(name)


def test_the_reference_names_its_limit() -> None:
    with raises("backend.range", "1000×1000", "200000000"):
        rasterizer.view(random_map(0), Camera(1000, 1000, 900, 900, 500, 500), np.eye(4), "reference")
