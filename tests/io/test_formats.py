"""What a file is, by its header: of this package's own kinds, and anything else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from feature_gs_ros.backprojection.field import FORMAT, FeatureField, Provenance
from feature_gs_ros.extractors.base import ExtractorIdentity
from feature_gs_ros.io.formats import format_of


def test_a_field_is_known_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "any name"
    ones = torch.ones(10)
    FeatureField(torch.ones(10, 4), ones, ones.int(), ExtractorIdentity("test"), Provenance("")).save(path)
    assert format_of(path) == FORMAT
    path.write_bytes(path.read_bytes()[:-10])  # a copy that broke off
    assert format_of(str(path)) == FORMAT


def test_where_nothing_stands_there_is_no_format(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("nothing", "link", "no/folder", "x" * 300, "a\0b"):
        assert format_of(tmp_path / name) is None


def header(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"notes",
        b"\xff" * 100,
        header(b"[1, 2]"),
        header(b'{"__metadata__": null}'),
        header(b'{"__metadata__": {"format": 1}}'),
        header(b"[" * 100_000),
        header(b'{"__metadata__": {"format": "\xff"}}'),
    ],
)
def test_anything_else_has_an_empty_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert format_of(tmp_path / "file") == ""


def test_so_have_other_tensors_folders_and_pipes(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "tensors")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    assert [format_of(path) for path in tmp_path.iterdir()] == [""] * 3
