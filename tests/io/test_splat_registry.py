"""Formats of other packages: the document's example as an installed package, and one that is broken."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from feature_gs_ros.core.errors import MapError
from feature_gs_ros.io.splats.registry import format_names, load_map
from tests.document_packages import install
from tests.errors import raises


@pytest.fixture
def spheres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example on the path, with a second entry point that can't be loaded."""
    further = "broken = my_package:Missing\n"
    install(tmp_path, "extending.md", "Spheres", "feature_gs_ros.splat_formats", monkeypatch, further)


@pytest.mark.usefixtures("spheres")
def test_the_documents_format_is_read_by_entry_point(tmp_path: Path) -> None:
    (tmp_path / "map.spheres").write_text("0 0 1 0.1 1 0 0\n0 0 2 0.2 0 1 0\n")
    gaussians = load_map(tmp_path / "map.spheres")
    assert "text file of spheres" in format_names()
    torch.testing.assert_close(gaussians.scales[:, 0], torch.tensor([0.1, 0.2]))
    (tmp_path / "cut.spheres").write_text("0 0 1 0.1 1 0\n")
    with raises("map"):
        load_map(tmp_path / "cut.spheres")


def test_a_file_of_no_format_names_those_that_are_read(tmp_path: Path) -> None:
    (tmp_path / "map.bin").write_bytes(b"abcdefgh")
    with pytest.raises(MapError) as raised:
        load_map(tmp_path / "map.bin")
    assert raised.value.code == "map.format"
    assert all(name in str(raised.value) for name in format_names())
