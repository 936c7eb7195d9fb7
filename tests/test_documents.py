"""What the documents show is what the package takes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.pictures import save_png

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_the_plain_folder_of_the_documents_is_a_stream(tmp_path: Path) -> None:
    (shown,) = re.findall(r"```json\n(.*?)```", (DOCS / "streams.md").read_text(), re.DOTALL)
    (tmp_path / "cameras.json").write_text(shown)
    save_png(np.zeros((480, 640, 3), np.uint8), tmp_path / "images" / "0001.png")
    (frame,) = open_stream(tmp_path).frames()
    assert (frame.name, frame.camera.width, frame.camera.cx) == ("0001", 640, 320.0)
    assert frame.camera.distortion is not None
    np.testing.assert_array_equal(frame.camera_from_world[:3, 3], [0, 0, 2.5])
    assert frame.image.shape == (480, 640, 3)
