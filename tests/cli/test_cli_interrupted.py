"""Ctrl-C is never a success: what is worth nothing in part isn't written, and the exit code is 130."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from feature_gs_ros.affordance.nearest import ROWS, nearest_patches
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.pictures import save_png
from tests.command_line import Outcome, run
from tests.errors import raises

pytestmark = pytest.mark.slow


@contextmanager
def control_c() -> Iterator[None]:
    """A SIGINT as soon as a command has taken it over for its work, before the work begins."""
    before, install = signal.getsignal(signal.SIGINT), signal.signal

    def installed(number: int, handler: Any) -> Any:
        replaced = install(number, handler)
        if number == signal.SIGINT and handler is not before:
            signal.raise_signal(signal.SIGINT)
        return replaced

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal, "signal", installed)
        yield


def interrupted(*words: object) -> Outcome:
    with control_c():
        return run(*words, code=130)


@pytest.fixture(scope="module")
def common(small_scene: Path) -> list[object]:
    return [small_scene / "map.ply", small_scene / "stream", "--alignment", small_scene / "alignment.yaml"]


@pytest.mark.parametrize("method", ["solve", "train"])
def test_distilling_stopped_at_the_extractor_writes_no_field(method: str, common: list[object], tmp_path: Path) -> None:
    words = ["--out", tmp_path / "f", "--extractor", "color", "--method", method, "--iterations", 1]
    said = interrupted("distill", *common, *words, "--json")
    assert said.stdout == ""
    assert said.stderr.strip().splitlines()[-1] == "feature-gs: interrupted"
    assert list(tmp_path.iterdir()) == []


def test_identities_of_some_of_the_masks_are_not_written(
    common: list[object], small_scene: Path, tmp_path: Path
) -> None:
    masks = ["--masks", small_scene / "masks", "--labels", small_scene / "labels.yaml"]
    said = interrupted("identity", *common, *masks, "--out", tmp_path / "f")
    assert said.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_transfer_answers_nothing(common: list[object], tmp_path: Path) -> None:
    image, mask = np.full((60, 80, 3), 120, np.uint8), np.zeros((60, 80), np.uint8)
    image[20:40, 20:50], mask[20:40, 20:50] = (200, 20, 30), 1
    save_png(image, tmp_path / "photo.png")
    save_png(mask, tmp_path / "mask.png")
    field, library = tmp_path / "field", tmp_path / "grips"
    run("backproject", *common, "--out", field, "--extractor", "color", "--every", 4)
    run(
        "affordance", "add", tmp_path / "photo.png", tmp_path / "mask.png", "--library", library, "--extractor", "color"
    )
    said = interrupted("affordance", "transfer", field, "--library", library, "--out", tmp_path / "out", "--json")
    assert said.stdout == ""
    assert not (tmp_path / "out").exists()


def test_no_figures_of_a_field_of_some_of_the_views(small_scene: Path, tmp_path: Path) -> None:
    (tmp_path / "segmentations").mkdir()
    (tmp_path / "segmentations" / "classes.txt").write_text("red")
    first = open_stream(small_scene / "stream").names()[0]
    (tmp_path / "segmentations" / first).mkdir()
    save_png(np.full((180, 240), 255, np.uint8), tmp_path / "segmentations" / first / "red.png")
    words = ["--map", small_scene / "map.ply", "--stream", small_scene / "stream", "--extractor", "color"]
    assert interrupted("evaluate", "3d-ovs", tmp_path, *words, "--json").stdout == ""


def test_a_shorter_recording_says_so(tmp_path: Path) -> None:
    size = ["--views", 5, "--width", 64, "--height", 48, "--gaussians", 3000]
    assert "stopped early" in interrupted("synth", tmp_path / "scene", *size).stdout
    assert 1 <= len(open_stream(tmp_path / "scene" / "stream").names()) < 5


def test_the_search_for_neighbours_stops_where_it_is_asked_to() -> None:
    calls: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> bool:
        calls.append((done, total))
        return True

    features = torch.ones(3 * ROWS, 2)
    with raises("stopped", f"{ROWS} of {3 * ROWS}"):
        nearest_patches(lambda rows: features[rows], len(features), torch.eye(2), 1, stop)
    assert calls == [(ROWS, 3 * ROWS)]


def test_ctrl_c_before_all_is_imported() -> None:
    """The commands' libraries take seconds."""
    stop = "class Stop:\n def find_spec(self, name, *_):\n  if name == 'tyro': raise KeyboardInterrupt\n"
    program = "import sys; sys.meta_path.insert(0, Stop()); from feature_gs_ros.cli import main; main(['info', 'x'])"
    done = subprocess.run([sys.executable, "-c", stop + program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (130, "feature-gs: interrupted")
