"""Recordings as they come: what is damaged in them costs its own view, and what can't go well is said at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.backprojection.ingest import sample_cells
from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.extractors import make_extractor
from feature_gs_ros.extractors.color import ColorExtractor
from feature_gs_ros.io.streams.registry import open_stream
from tests.command_line import run
from tests.errors import raises
from tests.little_scene import FRAMES, write_scene, write_stream


def test_a_damaged_mask_costs_its_own_view(tmp_path: Path) -> None:
    scene = write_scene(tmp_path)
    (scene / "masks" / "0001.png").write_bytes(b"no picture at all")
    lifted = run(
        "backproject", scene / "map.ply", scene, "--out", scene / "field", "--json",
        "--masks", scene / "masks", "--labels", scene / "labels.yaml",
    )  # fmt: skip
    told = json.loads(lifted.stdout)
    assert told["views"] == len(FRAMES) - 1
    (reason,) = told["skipped"]
    assert "0001.png" in reason
    distilled = run(
        "distill", scene / "map.ply", scene, "--out", scene / "distilled", "--extractor", "labels",
        "--option", f"masks={scene / 'masks'}", "--option", f"labels={scene / 'labels.yaml'}", "--json",
    )  # fmt: skip
    assert json.loads(distilled.stdout)["views"] == len(FRAMES) - 1
    assert FeatureField.load(scene / "distilled").provenance.frames == tuple(n for n in FRAMES if n != "0001")


@pytest.mark.parametrize("damaged", [0, 4])
@pytest.mark.parametrize(
    "words",
    [
        ("backproject", "--extractor", "color"),
        ("distill", "--extractor", "color"),
        ("identity", "--masks", "masks"),
        ("identity", "--masks", "masks", "--instances"),
    ],
)
def test_cameras_that_miss_the_map_are_refused(
    words: tuple[str, ...], damaged: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a forgotten --alignment: whatever the command, and however few of the images can be used."""
    write_scene(tmp_path)
    write_stream(tmp_path, aside=40.0)
    for name in FRAMES[:damaged]:
        whole = (tmp_path / "images" / f"{name}.png").read_bytes()
        (tmp_path / "images" / f"{name}.png").write_bytes(whole[: len(whole) // 2])
        (tmp_path / "masks" / f"{name}.png").write_bytes(b"nothing")
    monkeypatch.chdir(tmp_path)
    command, *rest = words
    said = run(command, "map.ply", ".", "--out", "field", *rest, code=2).stderr
    assert "[stream.poses]" in said
    assert "--alignment FILE" in said
    assert not (tmp_path / "field").exists()


@pytest.mark.parametrize("damaged", [("0002",), FRAMES[:5]])
def test_a_codec_is_fitted_on_the_images_that_can_be_used(damaged: tuple[str, ...], tmp_path: Path) -> None:
    scene = write_scene(tmp_path)
    for name in damaged:
        whole = (scene / "images" / f"{name}.png").read_bytes()
        (scene / "images" / f"{name}.png").write_bytes(whole[: len(whole) // 2])  # the header is whole
    left = len(FRAMES) - len(damaged)
    words = ("--extractor", "color", "--json")
    lifted = run("backproject", scene / "map.ply", scene, "--out", scene / "a", "--codec", "pca:2", *words)
    assert (json.loads(lifted.stdout)["views"], json.loads(lifted.stdout)["stored"]) == (left, 2)
    distilled = run("distill", scene / "map.ply", scene, "--out", scene / "b", "--dims", 2, *words)
    assert (json.loads(distilled.stdout)["views"], json.loads(distilled.stdout)["stored"]) == (left, 2)


def test_a_sample_is_taken_elsewhere_where_the_few_are_damaged(tmp_path: Path) -> None:
    scene = write_scene(tmp_path)
    for name in FRAMES[::2]:
        (scene / "masks" / f"{name}.png").write_bytes(b"nothing")
    extractor = make_extractor("labels", masks=scene / "masks", labels=scene / "labels.yaml")
    cells = sample_cells(open_stream(scene), FRAMES, extractor, count=3)  # at even steps: the damaged ones
    assert cells.shape == (3 * 64 * 48, 2)
    assert cells.mean(dim=0).tolist() == [0.5, 0.5]
    for path in (scene / "masks").iterdir():
        path.write_bytes(b"nothing")
    with raises("stream.empty", "mask"):
        sample_cells(open_stream(scene), FRAMES, extractor)


def test_a_random_codec_needs_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image goes through the network once, for its own view."""
    passes: list[str] = []
    extract = ColorExtractor.extract

    def counted(self: ColorExtractor, image: Image, name: str = "") -> FeatureGrid:
        passes.append(name)
        return extract(self, image, name)

    monkeypatch.setattr(ColorExtractor, "extract", counted)
    scene = write_scene(tmp_path)
    run("backproject", scene / "map.ply", scene, "--out", scene / "f", "--extractor", "color", "--codec", "random:2")
    assert len(passes) == len(FRAMES)
