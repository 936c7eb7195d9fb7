"""What commands say of a field whose answers are known: red on the right, blue on the left."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement

from feature_gs_ros.backprojection.field import FeatureField, Provenance
from feature_gs_ros.cli.commands import COMMANDS, GROUPS
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.extractors import make_extractor
from feature_gs_ros.extractors.base import Extractor
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.pictures import save_png
from tests.command_line import run
from tests.little_scene import write_scene


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_scene(tmp_path)


def write_field(
    scene: Path,
    red: Callable[[torch.Tensor], torch.Tensor],
    extractor: Extractor | None = None,
    aligned: Sim3 | None = None,
) -> Path:
    """A field of the colour extractor, or another: red where ``red`` of the means [N, 3] says so, elsewhere blue."""
    gaussians = load_map(scene / "map.ply")
    extractor = extractor or make_extractor("color")
    features = torch.where(red(gaussians.means)[:, None], *extractor.embed(["red", "blue"]))
    count = len(gaussians)
    provenance = Provenance(gaussians.checksum, str(scene / "map.ply"), splat_from_map=aligned or Sim3.identity())
    field = FeatureField(
        features, torch.ones(count), torch.ones(count, dtype=torch.int32), extractor.identity, provenance
    )
    field.save(scene / "field")
    return scene / "field"


def test_what_is_not_found_has_no_objects(scene: Path) -> None:
    """Three red Gaussians side by side: their opacity isn't enough for an object."""
    field = write_field(scene, lambda means: means[:, 0] >= means[:, 0].topk(3).values[-1])
    answer = json.loads(run("query", field, "red", "--json").stdout)
    assert (answer["state"], answer["gaussians"], answer["objects"]) == ("not found", 3, [])
    said = run("query", field, "red").stdout
    assert "object 1" not in said
    assert "'red' not found: only 3 Gaussians pass, too few for an object; 100%" in said
    likelier = run("query", field, "purple", "--threshold", "0.1", "--negative", "red", "--negative", "blue").stdout
    assert "'purple' not found: the matching Gaussians fit another prompt better; 100%" in likelier
    whole = json.loads(run("query", write_field(scene, lambda means: means[:, 0] > 0), "red", "--json").stdout)
    assert whole["state"] == "found"
    assert len(whole["objects"]) == 1


def test_a_cloud_is_where_the_map_or_where_the_boxes_are(scene: Path) -> None:
    """By an alignment of 14 units a metre: the box is in metres, and so is the cloud where that is asked for."""
    aligned = Sim3(14.0, np.array([0.5, 0.5, 0.5, 0.5]), np.array([3.0, -2.0, 1.0]))
    field = write_field(scene, lambda means: means[:, 0] > 0, aligned=aligned)
    words = ["query", field, "red", "--cloud", scene / "cloud.ply"]
    answer = json.loads(run(*words, "--json").stdout)
    on_the_map = load_map(scene / "cloud.ply")
    assert answer["unit"] == "m"
    assert ") m, size (" in run(*words, "--cloud-frame", "map").stdout
    metric = load_map(scene / "cloud.ply")
    assert np.allclose(aligned.apply(metric.means.numpy()), on_the_map.means.numpy(), atol=1e-5)
    assert torch.allclose(metric.scales * 14.0, on_the_map.scales, rtol=1e-5)
    box = answer["objects"][0]
    inside = np.abs((metric.means.numpy() - box["center"]) @ Sim3(1, box["quat_wxyz"], np.zeros(3)).rotation)
    assert (inside <= np.array(box["size"]) / 2 + 0.01).mean() > 0.9


def test_lengths_without_an_alignment_are_the_maps_own(scene: Path) -> None:
    field = write_field(scene, lambda means: means[:, 0] > 0)
    assert ") map units, size (" in run("query", field, "red").stdout
    assert json.loads(run("query", field, "red", "--json").stdout)["unit"] == "map units"


def test_json_has_no_number_that_is_none(scene: Path) -> None:
    """Where all pixels are to be ignored there is no mean and no accuracy: null, not NaN."""
    field = write_field(scene, lambda means: means[:, 0] > 0)
    for path in (scene / "masks").iterdir():
        save_png(np.full((48, 64), 255, np.uint8), path)
    said = run(
        "evaluate", "segmentation", field, "--stream", scene, "--masks", scene / "masks",
        "--labels", scene / "labels.yaml", "--prompt", "left=red", "--prompt", "right=blue", "--json",
    ).stdout  # fmt: skip

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    told = json.loads(said, parse_constant=refuse)
    assert (told["miou"], told["accuracy"], told["views"]) == (None, None, 6)


def test_a_precomputed_field_is_asked_in_words(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of embeddings is no part of the field: every command that asks takes it as an option."""
    monkeypatch.chdir(scene)
    np.savez("words.npz", red=np.array([1, 0, 0], np.float32), blue=np.array([0, 1, 0], np.float32))
    extractor = make_extractor("precomputed", embeddings="words.npz", dimension=3)
    write_field(scene, lambda means: means[:, 0] > 0, extractor)
    words = ("--option", "embeddings=words.npz")
    assert "--option embeddings=FILE" in run("query", "field", "red", code=2).stderr
    answer = json.loads(run("query", "field", "red", *words, "--json").stdout)
    assert (answer["state"], len(answer["objects"])) == ("found", 1)
    run("render", "field", "--stream", ".", "--index", "0000", "--out", "pictures", "--query", "red", *words)
    assert (scene / "pictures" / "mask.png").exists()
    told = json.loads(run("edit", "field", "--delete", "red", "--out", "edited.ply", *words, "--json").stdout)
    assert told["gaussians"] == 400 - answer["gaussians"]
    score = ("--stream", ".", "--masks", "masks", "--labels", "labels.yaml", "--json")
    asked = ("--prompt", "left=blue", "--prompt", "right=red")
    assert json.loads(run("evaluate", "segmentation", "field", *score, *asked, *words).stdout)["miou"] > 0.5
    other = run("query", "field", "red", *words, "--option", "dimension=4", code=2).stderr
    assert "has shape (3,), expected (4,)" in other
    unknown = run("query", "field", "red", "--option", "colour=3", code=2)
    assert unknown.error_code == "extractor.unknown"
    assert "colour" in unknown.stderr


@pytest.mark.parametrize(
    ("reds", "unseen", "word", "state"),
    [(200, 0, "green", "not found"), (200, 300, "green", "not observed"), (3, 300, "red", "not observed")],
)
def test_a_part_is_as_absent_as_its_object(reds: int, unseen: int, word: str, state: str, scene: Path) -> None:
    """Of an object that isn't there; or of which a few Gaussians pass, but too little of the map was seen to say."""
    field = write_field(scene, lambda means: means[:, 0] >= means[:, 0].topk(reds).values[-1])
    whole = FeatureField.load(field)
    count = torch.zeros(400, dtype=torch.int32)
    count[load_map(scene / "map.ply").means[:, 0].topk(400 - unseen).indices] = 1
    replace(whole, view_count=count).save(scene / "asked")
    add = ("affordance", "add", scene / "images" / "0000.png", scene / "masks" / "0000.png", "--extractor", "color")
    run(*add, "--library", scene / "grips", "--labels", scene / "labels.yaml")
    words = ("affordance", "transfer", field, "--library", scene / "grips", "--out", scene / "out", "--json")
    said = run(*words, "--object", word, "--object-field", scene / "asked")
    told = json.loads(said.stdout)
    assert f"'{word}' {state}" in said.stderr
    assert {entry["state"] for entry in told["affordances"].values()} == {state}
    assert f"'left' {state}" in told["message"]
    assert told["coverage"] == pytest.approx(1 - unseen / 400, abs=1e-4)


def test_pictures_of_an_earlier_question_do_not_stay(scene: Path) -> None:
    """Nor does anything else go: not a person's files, not those of a folder that was never rendered into."""
    field, out = write_field(scene, lambda means: means[:, 0] > 0), scene / "pictures"
    words = ("render", field, "--stream", scene, "--index", "0000", "--out", out)
    out.mkdir()
    for name in ("labels.png", "notes.png"):
        (out / name).write_bytes(b"a person's")
    assert run(*words).stderr == ""
    assert (out / "labels.png").read_bytes() == b"a person's"
    run(*words, "--query", "red", "--query", "blue")
    assert "removed labels.png of an earlier run" in run(*words, "--query", "red").stderr
    assert "removed similarity.png, mask.png, overlay.png of an earlier run" in run(*words).stderr
    assert {path.name for path in out.iterdir()} == {"image.png", "color.png", "depth.png", "features.png", "notes.png"}
    field.rename(out / "mask.png")
    before = (out / "mask.png").read_bytes()
    refused = run("render", out / "mask.png", *words[2:], code=2).stderr
    assert "mask.png' is read by this command" in refused
    assert (out / "mask.png").read_bytes() == before


def test_a_map_of_plain_colours_is_recoloured(scene: Path) -> None:
    """nerfstudio's PLY without SH, from the command line."""
    vertex = PlyData.read(str(scene / "map.ply"))["vertex"].data
    colors = np.clip(
        np.rint(255 * (0.28209479177387814 * np.stack([vertex[f"f_dc_{k}"] for k in range(3)]) + 0.5)), 0, 255
    )
    kept = [name for name in vertex.dtype.names if not name.startswith("f_dc")]
    rows = np.empty(
        len(vertex), [*((name, "f4") for name in kept), *((name, "u1") for name in ("red", "green", "blue"))]
    )
    for name in kept:
        rows[name] = vertex[name]
    rows["red"], rows["green"], rows["blue"] = colors
    PlyData([PlyElement.describe(rows, "vertex")]).write(str(scene / "map.ply"))
    field = write_field(scene, lambda means: means[:, 0] > 0)
    words = ("--recolor", "red", "--color", 0, 1, 0, "--paint", "flat", "--out", scene / "edited.ply")
    run("edit", field, *words)
    edited = PlyData.read(str(scene / "edited.ply"))["vertex"].data
    assert edited.dtype == rows.dtype
    right = edited["x"] > 0
    assert np.stack([edited[name][right] for name in ("red", "green", "blue")]).mean(axis=1) == pytest.approx(
        [0, 255, 0]
    )
    assert np.array_equal(edited[~right], rows[~right])


def test_a_view_that_is_named_twice_is_evaluated_once(scene: Path) -> None:
    field = write_field(scene, lambda means: means[:, 0] > 0)
    words = ("--stream", scene, "--masks", scene / "masks", "--labels", scene / "labels.yaml", "--prompt", "left=blue")
    views = ("--view", "0003", "--view", "0001", "--view", "0003")
    told = json.loads(run("evaluate", "segmentation", field, *words, *views, "--json").stdout)
    assert told["views"] == 2


@pytest.mark.parametrize("option", ["--hold-out", "--skip"])
def test_a_frame_to_be_left_out_that_there_is_not(option: str, scene: Path) -> None:
    """Two options leave frames out: the message names the frame, not the other option."""
    words = ("distill", scene / "map.ply", scene, "--out", scene / "f", "--extractor", "color", option, "nosuch")
    said = run(*words, code=2)
    assert said.error_code == "stream.missing"
    assert "nosuch" in said.stderr
    assert "--" not in said.stderr


@pytest.mark.parametrize("protocol", ["lerf-mask", "3d-ovs", "lerf-ovs", "replica"])
def test_a_protocols_extractor_takes_options(protocol: str, scene: Path) -> None:
    """Of the field that is given, and of one that is made: here an option that the extractor refuses by name."""
    for layout in ("segmentations", "test_mask"):
        save_png(np.full((48, 64), 255, np.uint8), scene / layout / "0001" / "red.png")
    field = write_field(scene, lambda means: means[:, 0] > 0)
    words = ["evaluate", protocol, scene, "--stream", scene, "--option", "colour=3"]
    words += ["--classes", scene / "labels.yaml"] if protocol == "replica" else []
    for more in (("--field", field), ("--map", scene / "map.ply", "--extractor", "color")):
        assert run(*words, *more, code=2).error_code == "extractor.unknown"


def test_several_texts_are_answered_as_each_alone(scene: Path) -> None:
    field = write_field(scene, lambda means: means[:, 0] > 0)
    words = ("red", "purple", "blue")
    together = json.loads(run("query", field, *words, "--json").stdout)
    for word, answer in zip(words, together["answers"], strict=True):
        alone = json.loads(run("query", field, word, "--json").stdout)
        assert {**answer, "seconds": 0, "unit": together["unit"], "warnings": together["warnings"]} == {
            **alone,
            "seconds": 0,
        }
    assert [line.split("'")[1] for line in run("query", field, *words).stdout.splitlines() if line[0] == "'"] == [
        *words
    ]
    assert (
        "--picture show one text's answer, 3 are given"
        in run("query", field, *words, "--picture", scene / "picture.png", code=2).stderr
    )
    assert run("query", field, code=2).error_code == "option.missing"


def test_the_list_of_commands_says_what_each_says_of_itself() -> None:
    entries = [*COMMANDS.values(), *(entry for group in GROUPS.values() for entry in group.values())]
    for entry in entries:
        assert (inspect.getdoc(entry.load()) or "").splitlines()[0] == entry.summary


def test_help_loads_neither_torch_nor_numba() -> None:
    code = """
import sys
from feature_gs_ros.cli.commands import run
try:
    run(["--help"])
except SystemExit:
    print(sorted({"torch", "numba", "scipy", "sklearn", "cv2"} & {*sys.modules}))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "[]"
