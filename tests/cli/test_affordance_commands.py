"""``feature-gs affordance …`` as a person uses it, and bad input: one line, exit code 2, the library as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.backprojection.ingest import pinhole_view
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.pictures import save_png
from tests.command_line import run

pytestmark = pytest.mark.slow

LABELS = "1: grip\n"


@pytest.fixture(scope="module")
def color_field(small_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mean colours of the small synthetic tabletop."""
    out = tmp_path_factory.mktemp("fields") / "color.field"
    run(
        "backproject", small_scene / "map.ply", small_scene / "stream", "--out", out, "--extractor", "color",
        "--alignment", small_scene / "alignment.yaml",
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def color_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The red square of one picture, marked."""
    folder = tmp_path_factory.mktemp("library")
    image, mask = picture(folder)
    run("affordance", "add", image, mask, "--library", folder / "grips", "--affordance", "grip", "--extractor", "color")
    return folder / "grips"


def picture(folder: Path, size: tuple[int, int] = (60, 80), marked: bool = True) -> tuple[Path, Path]:
    """A picture of a red square on grey, and its mask."""
    image = np.full((60, 80, 3), 120, np.uint8)
    mask = np.zeros(size, np.uint8)
    image[20:40, 20:50] = (30, 20, 200)
    mask[20:40, 20:50] = marked
    cv2.imwrite(str(folder / "photo.png"), image)
    cv2.imwrite(str(folder / "mask.png"), mask)
    return folder / "photo.png", folder / "mask.png"


def test_add_list_transfer_merge_remove(
    color_field: Path, color_library: Path, small_scene: Path, tmp_path: Path
) -> None:
    image, mask = picture(tmp_path)
    (tmp_path / "labels.yaml").write_text(LABELS)
    library, added = tmp_path / "grips", []
    for extra in (["--name", "one", "--object", "red thing"], ["--name", "two", "--picture", tmp_path / "two.png"]):
        words = ["affordance", "add", image, mask, "--library", library, "--labels", tmp_path / "labels.yaml"]
        added.append(json.loads(run(*words, "--extractor", "color", "--json", *extra).stdout))
    assert [entry["sources"] for entry in added] == [1, 2]
    assert (tmp_path / "two.png").stat().st_size > 0
    told = json.loads(run("affordance", "list", library, "--json").stdout)
    assert [source["name"] for source in told["sources"]] == ["one", "two"]

    out = tmp_path / "out"
    found = json.loads(
        run(
            "affordance", "transfer", color_field, "--library", library, "--out", out,
            "--stream", small_scene / "stream", "--json",
        ).stdout
    )  # fmt: skip
    assert found == json.loads((out / "regions.json").read_text())
    assert found["affordances"]["grip"]["state"] == "found"  # the mug is red
    assert {"affordances.ply", "map.png", "overlay.png", "source_one.png"} <= {path.name for path in out.iterdir()}
    region = found["regions"][0]
    assert np.linalg.norm(region["approach"]) == pytest.approx(1, abs=1e-4)
    assert 0 < region["gripper_width"] < 0.2
    assert 0 < region["coverage"] <= 1

    run("affordance", "merge", library, color_library, "--out", tmp_path / "both")
    assert len(json.loads(run("affordance", "list", tmp_path / "both", "--json").stdout)["sources"]) == 3
    run("affordance", "remove", "one", "--library", library)
    assert [s["name"] for s in json.loads(run("affordance", "list", library, "--json").stdout)["sources"]] == ["two"]


def test_the_cloud_lies_on_the_map_or_where_the_regions_are(
    color_field: Path, color_library: Path, tmp_path: Path
) -> None:
    words = ["affordance", "transfer", color_field, "--library", color_library, "--json"]
    told = json.loads(run(*words, "--out", tmp_path / "splat").stdout)
    run(*words, "--out", tmp_path / "map", "--cloud-frame", "map")
    on_the_map, metric = (load_map(tmp_path / frame / "affordances.ply") for frame in ("splat", "map"))
    aligned = FeatureField.load(color_field).provenance.splat_from_map
    assert aligned.scale != pytest.approx(1)
    assert np.allclose(aligned.apply(metric.means.numpy()), on_the_map.means.numpy(), atol=1e-4)
    largest = max(told["regions"], key=lambda region: region["gaussians"])
    away = np.abs(metric.means.numpy() - largest["center"]).max(axis=1)
    assert (away <= max(largest["extent"])).sum() >= largest["gaussians"]


def test_merge_into_a_folder_of_fields_leaves_them(color_field: Path, color_library: Path, tmp_path: Path) -> None:
    image, mask = picture(tmp_path)
    library, fields = tmp_path / "grips", tmp_path / "fields"
    run("affordance", "add", image, mask, "--library", library, "--name", "two", "--extractor", "color")
    fields.mkdir()
    (fields / "learned.safetensors").write_bytes(color_field.read_bytes())
    refused("affordance", "merge", library, color_library, "--out", fields, code="affordance.format")
    assert (fields / "learned.safetensors").read_bytes() == color_field.read_bytes()
    assert len(list(fields.iterdir())) == 1


def test_a_real_view_of_another_stream_shows_what_was_found(
    color_field: Path, color_library: Path, small_scene: Path, tmp_path: Path
) -> None:
    """Its poses are in the map's frame and its frames have other names: the picture is the one of the recording."""
    alignment = FeatureField.load(color_field).provenance.splat_from_map
    frame = next(iter(open_stream(small_scene / "stream").frames()))
    seen = pinhole_view(frame, alignment)
    save_png(seen.image, tmp_path / "photos" / "images" / "a.png")
    camera = {key: getattr(seen.camera, key) for key in ("width", "height", "fx", "fy", "cx", "cy")}
    entry = {"image": "images/a.png", **camera, "camera_from_world": seen.camera_from_splat.tolist()}
    (tmp_path / "photos" / "cameras.json").write_text(json.dumps({"frames": [entry]}))

    words = ["affordance", "transfer", color_field, "--library", color_library]
    run(*words, "--out", tmp_path / "own", "--stream", small_scene / "stream", "--index", frame.name)
    run(*words, "--out", tmp_path / "other", "--stream", tmp_path / "photos")
    own, other = (cv2.imread(str(tmp_path / name / "overlay.png")).astype(int) for name in ("own", "other"))
    marked = np.abs(own[: seen.camera.height] - seen.image[:, :, ::-1]).max(axis=2) > 0
    assert 0.001 < marked.mean() < 0.5
    assert np.array_equal(own, other)


def test_a_frame_that_is_not_there_is_refused_before_the_work(
    color_field: Path, color_library: Path, small_scene: Path, tmp_path: Path
) -> None:
    words = [
        "affordance",
        "transfer",
        color_field,
        "--library",
        color_library,
        "--out",
        tmp_path / "out",
        "--index",
        "x",
    ]
    refused(*words, "--stream", small_scene / "stream", code="stream.missing", quoted="'x'")
    refused(*words, code="option.conflict", quoted="--stream")
    assert not (tmp_path / "out").exists()


def test_nothing_found_is_an_answer(color_field: Path, tmp_path: Path) -> None:
    """A colour that the tabletop doesn't have."""
    image, mask = picture(tmp_path)
    magenta = np.full((60, 80, 3), (255, 0, 255), np.uint8)
    magenta[:10] = (0, 255, 0)
    cv2.imwrite(str(image), magenta)
    run("affordance", "add", image, mask, "--library", tmp_path / "l", "--affordance", "grip", "--extractor", "color")
    words = ["affordance", "transfer", color_field, "--library", tmp_path / "l", "--out", tmp_path / "out", "--json"]
    found = json.loads(run(*words, "--floor", "0.99").stdout)
    assert found["regions"] == []
    assert found["affordances"]["grip"]["state"] == "not found"
    assert found["abstained"] > 0
    assert not (tmp_path / "out" / "affordances.ply").exists()


def test_nothing_of_an_earlier_run_lies_beside_the_answer(
    color_field: Path, color_library: Path, small_scene: Path, tmp_path: Path
) -> None:
    """What is found, then nothing: its cloud and overlay go; files that no run wrote stay."""
    out, own = tmp_path / "out", ("affordances.ply", "map.png", "overlay.png")
    words = ["affordance", "transfer", color_field, "--library", color_library, "--json"]
    nothing = (*words, "--floor", "1")
    out.mkdir()
    for name in ("overlay.png", "notes.png"):
        (out / name).write_bytes(b"a person's")
    assert run(*nothing, "--out", out).stderr == ""
    assert (out / "overlay.png").read_bytes() == b"a person's"
    run(*words, "--out", out, "--stream", small_scene / "stream")
    assert all((out / name).exists() for name in own)
    assert "removed affordances.ply, overlay.png of an earlier run" in run(*nothing, "--out", out).stderr
    assert [(out / name).exists() for name in own] == [False, True, False]
    assert (out / "notes.png").read_bytes() == b"a person's"
    assert (out / "source_photo.png").exists()

    (out / "overlay.png").write_bytes(color_library.read_bytes())
    words = ["affordance", "transfer", color_field, "--library", out / "overlay.png", "--floor", "1", "--out", out]
    refused(*words, code="option.exists", quoted="overlay.png")
    assert (out / "overlay.png").read_bytes() == color_library.read_bytes()


@pytest.mark.parametrize(
    ("case", "code", "quoted"),
    [
        ("size", "affordance.size", "40×60, its image 80×60"),
        ("empty", "affordance.empty", "'photo'"),
        ("extractor", "affordance.mismatch", "'imagenet-parts'"),
        ("path", "affordance.name", "../photo"),
        ("affordance path", "affordance.name", "a/b"),
        ("taken", "affordance.exists", "'photo'"),
    ],
)
def test_an_addition_that_fails_loses_nothing(
    case: str, code: str, quoted: str, color_library: Path, tmp_path: Path
) -> None:
    image, mask = picture(tmp_path, (60, 40) if case == "size" else (60, 80), marked=case != "empty")
    options: dict[str, list[str]] = {
        "extractor": ["--extractor", "imagenet-parts"], "path": ["--name", "../photo"],
        "affordance path": ["--affordance", "a/b"],
    }  # fmt: skip
    before = color_library.read_bytes()
    refused(
        "affordance", "add", image, mask, "--library", color_library, *options.get(case, []), code=code, quoted=quoted
    )
    assert color_library.read_bytes() == before
    assert list(color_library.parent.glob(".*")) == []  # nor is anything left lying about


def test_transfers_that_cannot_be(color_field: Path, color_library: Path, tmp_path: Path) -> None:
    """k beyond the patches of the only source; NaN in the field; a field of another extractor."""
    words = ("--library", color_library, "--out", tmp_path / "out")
    refused("affordance", "transfer", color_field, *words, "--k", "100000", code="affordance.range", quoted="k=100000")
    broken = damaged(color_field, tmp_path / "nan.field", features=float("nan"))
    refused("affordance", "transfer", broken, *words, code="field.value", quoted="NaN")
    other = damaged(color_field, tmp_path / "other.field", extractor="another")
    refused("affordance", "transfer", other, *words, code="affordance.mismatch", quoted="'color'")
    assert not (tmp_path / "out").exists()


def damaged(field: Path, copy: Path, features: float | None = None, extractor: str | None = None) -> Path:
    """A copy of a field file with one feature replaced, or of another extractor."""
    with safe_open(str(field), framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    if features is not None:
        tensors["features"][int(torch.nonzero(tensors["view_count"])[0])] = features
    if extractor is not None:
        metadata = {key: value.replace('"color"', f'"{extractor}"') for key, value in metadata.items()}
    save_file(tensors, copy, metadata=metadata)
    return copy


def refused(*words: Any, code: str, quoted: str = "") -> None:
    result = run(*words, code=2)
    assert result.error_code == code, result.stderr
    assert quoted in result.stderr
