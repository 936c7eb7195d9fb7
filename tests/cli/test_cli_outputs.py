"""No command writes over what it reads: refused in one line before any work, and every input is as it was."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_map

from feature_gs_ros.backprojection.field import FeatureField, Provenance
from feature_gs_ros.extractors import make_extractor
from feature_gs_ros.io.splats.gaussian_ply import save_ply
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.pictures import save_png
from tests.command_line import run
from tests.errors import raises

pytestmark = pytest.mark.slow


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A map, a field of it, an empty folder for a stream, a picture with its mask, and a link to the map."""
    save_ply(random_map(3, 60), tmp_path / "map.ply")
    gaussians = load_map(tmp_path / "map.ply")
    extractor = make_extractor("color")
    field = FeatureField(
        torch.rand(60, 3, generator=torch.Generator().manual_seed(0)),
        torch.ones(60),
        torch.ones(60, dtype=torch.int32),
        extractor.identity,
        Provenance(gaussians.checksum, str(tmp_path / "map.ply")),
    )
    field.save(tmp_path / "map.safetensors")
    (tmp_path / "link.ply").symlink_to(tmp_path / "map.ply")
    (tmp_path / "stream").mkdir()
    for name in ("photo", "mask"):
        save_png(np.full((8, 8, 3), 200, np.uint8), tmp_path / f"{name}.png")
    (tmp_path / "labels.yaml").write_text("1: grip\n")
    return tmp_path


EDIT = ("edit", "map.safetensors", "--delete", "red")
DISTILL = ("distill", "map.ply", "stream", "--extractor", "color", "--method", "train")
ADD = ("affordance", "add", "photo.png", "mask.png", "--extractor", "color")
TRANSFER = ("affordance", "transfer", "map.safetensors", "--library", "grips")


@pytest.mark.parametrize(
    "words",
    [
        (*EDIT, "--out", "map.ply"),
        (*EDIT, "--out", "link.ply"),
        (*EDIT, "--out", "map.safetensors"),
        (*EDIT, "--out", "new.ply", "--picture", "map.ply"),
        (*EDIT, "--out", "new.ply", "--picture", "new.ply.edits"),
        ("edit", "map.safetensors", "--delete", "@photo.png", "--out", "new.ply", "--picture", "photo.png"),
        (*DISTILL, "--joint", "--out", "map.safetensors"),  # its map stands beside it: map.ply
        (*DISTILL, "--joint", "--out", "new.ply"),
        (*DISTILL, "--out", "map.ply"),
        ("backproject", "map.ply", "stream", "--out", "map.ply"),
        ("backproject", "map.ply", "stream", "--out", "labels.yaml", "--masks", "m", "--labels", "labels.yaml"),
        ("query", "map.safetensors", "red", "--cloud", "map.ply"),
        ("query", "map.safetensors", "red", "--picture", "map.safetensors"),
        ("query", "map.safetensors", "red", "--picture", "new", "--cloud", "./new"),
        ("identity", "map.ply", "stream", "--masks", "stream", "--out", "map.ply"),
        ("identity", "map.ply", "stream", "--masks", "stream", "--out", "new", "--extract", "stream"),
        ("instances", "map.safetensors", "--out", "map.safetensors"),
        ("instances", "map.safetensors", "--out", "map.ply"),
        ("train", "stream", "--init", "map.ply", "--out", "map.ply"),
        ("train", "stream", "--init", "map.ply", "--out", "new.ply", "--pictures", "stream"),
        ("render", "map.safetensors", "--stream", "stream", "--index", "1", "--out", "stream"),
        (*ADD, "--library", "mask.png"),
        (*ADD, "--library", "grips", "--picture", "photo.png"),
        (*TRANSFER, "--out", "stream", "--stream", "stream"),
        ("extractors", "--convert", "new.safetensors", "--out", "./new.safetensors"),
    ],
)
def test_an_input_is_never_written_over(words: tuple[str, ...], inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(inputs)
    before = {path: path.read_bytes() for path in inputs.iterdir() if path.is_file()}
    said = run(*words, code=2)
    assert said.error_code in ("option.exists", "option.file-kind")
    assert len(said.stderr.strip().splitlines()) == 1
    assert {path: path.read_bytes() for path in inputs.iterdir() if path.is_file()} == before
    assert list((inputs / "stream").iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ("backproject", "map.ply", "recorded", "--out", "recorded/images/a.png"),
        ("backproject", "map.ply", "stream", "--out", "recorded/cameras.json", "--masks", "recorded"),
        ("backproject", "map.ply", "stream", "--out", "recorded/a.npy", "--option", "folder=recorded"),
        ("identity", "map.ply", "stream", "--masks", "recorded/images", "--out", "recorded/images/a.png"),
        (*DISTILL, "--out", "recorded/words", "--option", "embeddings=recorded/words"),
        ("train", "recorded", "--out", "recorded/cameras.json"),
        ("query", "map.safetensors", "red", "--cloud", "recorded/words", "--option", "embeddings=recorded/words"),
        (*EDIT, "--out", "recorded/words", "--option", "embeddings=recorded/words"),
    ],
)
def test_what_lies_in_a_folder_that_is_read_is_an_input(
    words: tuple[str, ...], inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(inputs)
    (inputs / "recorded" / "images").mkdir(parents=True)
    files = [inputs / "recorded" / name for name in ("cameras.json", "a.npy", "words", "images/a.png")]
    for file in files:
        file.write_text("of the recording")
    said = run(*words, code=2)
    assert said.error_code in ("option.exists", "option.file-kind")
    assert [file.read_text() for file in files] == ["of the recording"] * len(files)


def test_a_field_in_its_recordings_folder_can_be_made_again(small_scene: Path, tmp_path: Path) -> None:
    stream = tmp_path / "stream"
    shutil.copytree(small_scene / "stream", stream)
    words = ["backproject", small_scene / "map.ply", stream, "--alignment", small_scene / "alignment.yaml"]
    for _ in range(2):
        run(*words, "--out", stream / "colors.safetensors", "--extractor", "color", "--every", "3")


@pytest.mark.parametrize(
    ("words", "suffix"),
    [
        (("train", "stream", "--out", "new.splat"), ".ply"),
        ((*EDIT, "--out", "new.pt"), ".ply"),
        (("query", "map.safetensors", "red", "--cloud", "new.splat"), ".ply"),
        (("query", "map.safetensors", "red", "--picture", "new.jpg"), ".png"),
        ((*ADD, "--library", "grips", "--picture", "new.jpg"), ".png"),
    ],
)
def test_a_file_is_named_by_its_kind(
    words: tuple[str, ...], suffix: str, inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read again by its name, it would be taken for damaged."""
    monkeypatch.chdir(inputs)
    said = run(*words, code=2)
    assert said.error_code.endswith(".suffix")
    assert suffix in said.stderr


def test_a_pipe_is_not_replaced(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(inputs)
    os.mkfifo("pipe")
    assert run("query", "map.safetensors", "red", "--cloud", "pipe", code=2).error_code == "option.file-kind"
    with raises("map.unwritable"):
        save_ply(random_map(3, 5), inputs / "pipe")
    assert (inputs / "pipe").is_fifo()


@pytest.mark.parametrize("out", ["photo.png/new", "photo.png/deep/new", "/proc/new"])
def test_where_nothing_can_be_written_is_said_before_the_work(
    out: str, inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(inputs)
    said = run("backproject", "map.ply", "stream", "--out", out, code=2)
    assert said.error_code in ("option.unwritable", "option.file-kind")
    assert f"--out '{out}'" in said.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("train", "stream", "--init", "map.ply", "--out", "stream/.."),
        (*DISTILL, "--out", "folder"),
        ("backproject", "map.ply", "stream", "--out", "folder"),
        ("backproject", "map.ply", "stream", "--out", "new", "--cache", "labels.yaml"),
        ("identity", "map.ply", "stream", "--masks", "stream", "--out", "folder"),
        ("instances", "map.safetensors", "--out", "new", "--extract", "photo.png"),
        ("query", "map.safetensors", "red", "--cloud", "folder"),
        ("render", "map.safetensors", "--stream", "stream", "--index", "1", "--out", "photo.png"),
    ],
)
def test_files_are_no_folders(words: tuple[str, ...], inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before the work, which would be lost."""
    monkeypatch.chdir(inputs)
    (inputs / "folder").mkdir()
    said = run(*words, code=2)
    assert said.error_code == "option.file-kind"
    assert not (inputs / "new").exists()


def test_a_cloud_of_affordances_spares_the_map(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A map that is called as the cloud, in the folder for the answers."""
    monkeypatch.chdir(inputs)
    image, mask = np.full((32, 32, 3), 120, np.uint8), np.zeros((32, 32), np.uint8)
    image[8:24, 8:24], mask[8:24, 8:24] = (200, 20, 30), 1
    save_png(image, inputs / "photo.png")
    save_png(mask, inputs / "mask.png")
    run(*ADD, "--library", "grips", "--affordance", "grip")
    (inputs / "map.ply").rename(inputs / "affordances.ply")
    before = (inputs / "affordances.ply").read_bytes()
    said = run(*TRANSFER, "--map", "affordances.ply", "--out", ".", code=2)
    assert said.error_code == "option.exists"
    assert "affordances.ply" in said.stderr
    assert (inputs / "affordances.ply").read_bytes() == before
