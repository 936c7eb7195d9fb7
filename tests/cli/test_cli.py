"""``feature-gs`` as its users run it: a process, its output and its exit code."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import cv2
import numpy as np
import pytest

from feature_gs_ros import rasterizer
from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.registry import open_stream
from tests.command_line import run

ENTRY = "import sys; from feature_gs_ros.cli import main; main(sys.argv[1:])"


@pytest.fixture(scope="module")
def labelled(small_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A field of the ground truth's masks."""
    out = tmp_path_factory.mktemp("fields") / "labels.field"
    run(
        "backproject", small_scene / "map.ply", small_scene / "stream", "--out", out,
        "--alignment", small_scene / "alignment.yaml",
        "--masks", small_scene / "masks", "--labels", small_scene / "labels.yaml",
    )  # fmt: skip
    return out


@pytest.mark.slow
def test_words_on_the_synthetic_tabletop(small_scene: Path, tmp_path: Path) -> None:
    """The main job end to end with learned features: a mug is found where it is, a toaster is not."""
    field = tmp_path / "field"
    lifted = run(
        "backproject", small_scene / "map.ply", small_scene / "stream", "--out", field,
        "--alignment", small_scene / "alignment.yaml", "--json",
    )  # fmt: skip
    assert json.loads(lifted.stdout)["views"] == 8
    cloud, picture = tmp_path / "mug.ply", tmp_path / "mug.png"
    answer = json.loads(run("query", field, "coffee mug", "--cloud", cloud, "--picture", picture, "--json").stdout)
    assert answer["state"] == "found"
    truth = np.array([-0.12, -0.05, 0.05])  # the mug of the scene stands there, 10 cm tall
    assert np.linalg.norm(np.array(answer["objects"][0]["center"]) - truth) < 0.05
    assert 0.05 < max(answer["objects"][0]["size"]) < 0.2
    assert len(load_map(cloud)) == answer["gaussians"]
    assert cv2.imread(str(picture)).std() > 10
    absent = json.loads(run("query", field, "toaster", "--json").stdout)
    assert absent["state"] == "not found"
    assert "it stands out nowhere" in absent["message"] or absent["rival"] in absent["message"]
    assert absent["objects"] == []
    scored = run(
        "evaluate", "segmentation", field, "--stream", small_scene / "stream", "--masks", small_scene / "masks",
        "--labels", small_scene / "labels.yaml",
        "--prompt", "mug=coffee mug", "--prompt", "bottle=wine bottle", "--json",
    )  # fmt: skip
    result = json.loads(scored.stdout)
    assert result["iou"]["mug"] > 0.6
    assert result["views"] == 8


def test_labels_are_evaluated_against_themselves(small_scene: Path, labelled: Path) -> None:
    result = json.loads(
        run(
            "evaluate", "segmentation", labelled, "--stream", small_scene / "stream",
            "--masks", small_scene / "masks", "--labels", small_scene / "labels.yaml", "--json",
        ).stdout
    )  # fmt: skip
    assert result["miou"] > 0.8
    assert result["accuracy"] > 0.97
    one = run(
        "evaluate", "segmentation", labelled, "--stream", small_scene / "stream", "--masks", small_scene / "masks",
        "--labels", small_scene / "labels.yaml", "--view", sorted(p.stem for p in (small_scene / "masks").iterdir())[0],
    )  # fmt: skip
    assert "1 views" in one.stdout


def test_query_asks_for_what_is_there(labelled: Path) -> None:
    found = run("query", labelled, "mug")
    assert "'mug' found" in found.stdout
    assert "object 1: centre" in found.stdout
    unknown = run("query", labelled, "submarine", code=2)
    assert unknown.error_code == "prompt.unknown"
    assert "'submarine'" in unknown.stderr
    assert len(unknown.stderr.strip().splitlines()) == 1


def test_render_writes_its_pictures(small_scene: Path, labelled: Path, tmp_path: Path) -> None:
    index = sorted(path.stem for path in (small_scene / "masks").iterdir())[2]
    run("render", labelled, "--stream", small_scene / "stream", "--index", index, "--query", "mug", "--out", tmp_path)
    pictures = {path.stem: cv2.imread(str(path)) for path in tmp_path.iterdir()}
    assert set(pictures) == {"image", "color", "depth", "features", "similarity", "mask", "overlay"}
    # The map was sampled from the surfaces that were photographed: its picture is like the photograph.
    difference = np.abs(pictures["image"].astype(float) - pictures["color"].astype(float)).mean()
    assert difference < 20
    truth = cv2.imread(str(small_scene / "masks" / f"{index}.png"), cv2.IMREAD_UNCHANGED) == 1
    mask = pictures["mask"][:, :, 0] > 0
    assert (mask & truth).sum() / (mask | truth).sum() > 0.75
    both = ("--query", "mug", "--query", "bottle", "--out", tmp_path / "both")
    run("render", labelled, "--stream", small_scene / "stream", "--index", index, *both)
    labels = cv2.imread(str(tmp_path / "both" / "labels.png"))[:, :, ::-1]
    assert labels.shape[0] == pictures["color"].shape[0] + 2 * 24  # a line of the legend for each
    reddish = labels[: len(mask)].astype(int) @ [2, -1, -1] > pictures["image"][:, :, ::-1].astype(int) @ [2, -1, -1]
    assert reddish[mask].mean() > 0.9  # label 1 is tinted red
    unknown = run(
        "render", labelled, "--stream", small_scene / "stream", "--index", "nobody", "--out", tmp_path, code=2
    )
    assert "nobody" in unknown.stderr
    assert index[:6] in unknown.stderr


def test_info_of_everything(small_scene: Path, labelled: Path) -> None:
    assert json.loads(run("info", small_scene / "map.ply", "--json").stdout)["kind"] == "map"
    assert json.loads(run("info", small_scene / "stream", "--json").stdout)["frames"] == 8
    facts = json.loads(run("info", labelled, "--json").stdout)
    assert (facts["kind"], facts["teacher"], facts["views"]) == ("field", "labels", 8)


@pytest.mark.slow
def test_resume_takes_only_what_is_missing(small_scene: Path, tmp_path: Path) -> None:
    field = tmp_path / "field"
    common = [
        "backproject", small_scene / "map.ply", small_scene / "stream", "--out", field, "--extractor", "color",
        "--alignment", small_scene / "alignment.yaml", "--json",
    ]  # fmt: skip
    assert json.loads(run(*common, "--every", "2").stdout)["views"] == 4
    assert json.loads(run(*common, "--resume").stdout)["views"] == 4
    resumed = FeatureField.load(field)
    assert len(resumed.provenance.frames) == 8
    run(*common)
    whole = FeatureField.load(field)
    strong = whole.weight > 0.01
    assert np.allclose(resumed.features[strong], whole.features[strong], atol=1e-3)


@pytest.mark.slow
def test_a_codec_stores_fewer_numbers(small_scene: Path, tmp_path: Path) -> None:
    field = tmp_path / "field"
    said = run(
        "backproject", small_scene / "map.ply", small_scene / "stream", "--out", field, "--every", "4",
        "--alignment", small_scene / "alignment.yaml", "--codec", "pca:32", "--json",
    )  # fmt: skip
    assert json.loads(said.stdout)["stored"] == 32
    assert json.loads(said.stdout)["dimension"] == 1000
    assert json.loads(run("query", field, "coffee mug", "--json").stdout)["state"] == "found"


@pytest.mark.slow
def test_ctrl_c_saves_what_is_done(small_scene: Path, tmp_path: Path) -> None:
    field = tmp_path / "field"
    terminal, stderr = pty.openpty()  # the progress bar is for terminals, and as wide as they are
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen(
        [
            sys.executable, "-c", ENTRY, "backproject", small_scene / "map.ply", small_scene / "stream", "--out", field,
            "--alignment", small_scene / "alignment.yaml",
        ],
        stderr=stderr, stdout=subprocess.PIPE,
    )  # fmt: skip
    os.close(stderr)
    shown = b""
    while b"1/8" not in shown:
        shown += os.read(terminal, 4096)  # raises where the process ended before its first view
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    os.close(terminal)
    assert process.returncode == 130
    assert b"stopped early; go on with --resume" in output
    assert 1 <= len(FeatureField.load(field).provenance.frames) < 8


MAP, STREAM, OUT = "{scene}/map.ply", "{scene}/stream", ("--out", "{tmp}/f")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["query", "{tmp}/nothing", "mug"], "there is no field"),
        (["info", "{tmp}/nothing"], "there is nothing at"),
        (["backproject", "{scene}/labels.yaml", STREAM, *OUT], "labels.yaml"),
        (["backproject", MAP, "{tmp}", *OUT], "rosbag2 recording"),
        (["backproject", MAP, STREAM, *OUT, "--extractor", "dinosaur"], "unknown"),
        (["backproject", MAP, STREAM, *OUT, "--backend", "cuda"], "--backend auto"),
        (["backproject", MAP, STREAM, *OUT, "--extractor", "labels"], "--masks DIR"),
        (["backproject", MAP, STREAM, *OUT, "--skip", "x"], "matches no frame"),
        (["backproject", MAP, STREAM, *OUT, "--codec", "zip:3"], "pca:K"),
        (["backproject", MAP, STREAM, *OUT, "--alignment", "{tmp}/a"], "No such file"),
        (["query", "{field}", ""], "the prompt is empty"),
        (["query", "{field}", "mug", "--threshold", "nan"], "threshold nan"),
        (["query", "{field}", "mug", "--map", "{tmp}/other.ply"], "other.ply"),
    ],
)
def test_bad_input_is_one_line_and_two(
    words: list[str], message: str, small_scene: Path, labelled: Path, tmp_path: Path
) -> None:
    filled = [word.format(tmp=tmp_path, scene=small_scene, field=labelled) for word in words]
    result = run(*filled, code=2)
    lines = [line for line in result.stderr.strip().splitlines() if line.startswith("feature-gs: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert result.stdout == ""
    assert not (tmp_path / "f").exists()


def test_a_moved_map_is_found_beside_the_field(small_scene: Path, tmp_path: Path) -> None:
    scene = tmp_path / "scene"
    scene.mkdir()
    shutil.copy(small_scene / "map.ply", scene / "map.ply")
    out = tmp_path / "there" / "field"
    run(
        "backproject", scene / "map.ply", small_scene / "stream", "--out", out, "--extractor", "color",
        "--alignment", small_scene / "alignment.yaml", "--every", "8",
    )  # fmt: skip
    (scene / "map.ply").rename(out.parent / "map.ply")
    assert json.loads(run("info", out, "--json").stdout)["views"] == 1
    assert "'red' " in run("query", out, "red").stdout
    (out.parent / "map.ply").unlink()
    assert "--map FILE" in run("query", out, "red", code=2).stderr


def test_help_of_the_console_script() -> None:
    """In a process of its own, as installed."""
    script = Path(sys.executable).with_name("feature-gs")
    shown = subprocess.run([script, "--help"], capture_output=True, text=True, check=True).stdout
    for command in ("synth", "backproject", "query", "render", "evaluate", "affordance", "identity", "info"):
        assert command in shown
    assert "segmentation" in run("evaluate", "--help").stdout
    run("evaluate", "nothing", code=2)


@pytest.mark.slow
def test_the_real_tabletop_in_words(tabletop: Path, tmp_path: Path) -> None:
    """A few views, the defaults: the screwdriver's answer lies on the table, in the robot's frame."""
    field = tmp_path / "field"
    run(
        "backproject", tabletop / "map.ply", tabletop / "stream", "--out", field,
        "--alignment", tabletop / "alignment.yaml", "--every", "3",
    )  # fmt: skip
    answer = json.loads(run("query", field, "screwdriver", "--json").stdout)
    assert answer["state"] == "found"
    box = answer["objects"][0]
    assert abs(box["center"][2]) < 0.06  # the table top is at z = -0.02 m
    assert 0.08 < max(box["size"]) < 0.3
    assert json.loads(run("query", field, "toaster", "--json").stdout)["state"] == "not found"
    # The mug, cut out of another view so that it fills its picture, and somebody else's orange.
    image, mask = (
        cv2.imread(str(tabletop / name), cv2.IMREAD_UNCHANGED) for name in ("colmap/images/7.jpg", "masks/7.png")
    )
    rows, columns = np.nonzero(mask == 3)
    cut = image[rows.min() - 10 : rows.max() + 10, columns.min() - 10 : columns.max() + 10]
    cv2.imwrite(str(tmp_path / "mug.png"), cut)
    run("edit", field, "--extract", f"@{tmp_path / 'mug.png'}", "--out", tmp_path / "alike.ply")
    frame = next(iter(open_stream(tabletop / "colmap").frames({"0"})))
    shown = rasterizer.view(load_map(tmp_path / "alike.ply"), frame.camera, frame.camera_from_world)
    covered = shown.render_depth()[:, :, 1].numpy() > 0.3
    mug = cv2.imread(str(tabletop / "masks/0.png"), cv2.IMREAD_UNCHANGED) == 3
    assert (covered & mug).sum() > 0.4 * (covered | mug).sum()
    cv2.circle(orange := np.full((120, 120, 3), 200, np.uint8), (60, 60), 50, (0, 128, 255), -1)
    cv2.imwrite(str(tmp_path / "orange.png"), orange)
    refused = run("edit", field, "--extract", f"@{tmp_path / 'orange.png'}", "--out", tmp_path / "o.ply", code=2)
    assert "not found" in refused.stderr


@pytest.mark.slow
def test_objects_without_words_or_masks(labelled: Path, tmp_path: Path) -> None:
    """Clusters of the features: each thing of the scene is one object, whose name and box can be asked for."""
    told = json.loads(run("instances", labelled, "--out", tmp_path / "objects", "--extract", tmp_path, "--json").stdout)
    truth, found = FeatureField.load(labelled), FeatureField.load(tmp_path / "objects")
    classes, owners = truth.decoded().argmax(dim=1), found.decoded().argmax(dim=1)
    names = list(truth.extractor.preprocessing["classes"].values())
    for name, least in (("mug", 0.8), ("bottle", 0.8), ("orange", 0.5)):
        thing = (classes == names.index(name)) & truth.seen
        owner = int(owners[thing].mode().values)
        one = (owners == owner) & truth.seen
        assert float((one & thing).sum()) / float((one | thing).sum()) > least, name
    first = told["objects"][0]
    answer = json.loads(run("query", tmp_path / "objects", first["name"], "--json").stdout)
    assert answer["state"] == "found"
    assert len(load_map(tmp_path / f"{first['name']}.ply")) == first["gaussians"]
