"""Shards: all parts of a stream, back-projected apart and added up, are the whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from command_line import run
from hypothesis import given
from hypothesis import strategies as st

from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.backprojection.shards import Shard, merge_fields
from feature_gs_ros.core.errors import FieldError, OptionError


@given(length=st.integers(0, 60), count=st.integers(1, 20))
def test_shards_are_the_whole_in_order(length: int, count: int) -> None:
    parts = [Shard(number, count).of(range(length)) for number in range(1, count + 1)]
    assert [item for part in parts for item in part] == list(range(length))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/3", "1/1000001", "1/2/3", ""])
def test_what_is_no_shard_is_an_error(text: str) -> None:
    with pytest.raises(OptionError) as raised:
        Shard.parse(text)
    assert raised.value.code == "option.shard"


@pytest.fixture(scope="module")
def shards(small_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """A field of all eight views, and those of three shards of them."""
    folder = tmp_path_factory.mktemp("shards")
    words = [small_scene / "map.ply", small_scene / "stream", "--alignment", small_scene / "alignment.yaml"]
    words += ["--extractor", "color"]
    run("backproject", *words, "--out", folder / "whole.field")
    paths = [folder / f"{k}.field" for k in (1, 2, 3)]
    for k, path in enumerate(paths, start=1):
        run("backproject", *words, "--shard", f"{k}/3", "--out", path)
    return folder / "whole.field", paths


@pytest.mark.slow
def test_shards_add_up_to_the_whole(shards: tuple[Path, list[Path]], tmp_path: Path) -> None:
    whole, (first, second, third) = FeatureField.load(shards[0]), shards[1]
    out = tmp_path / "merged.field"
    run("merge", first, second, "--out", out)
    told = json.loads(run("merge", first, second, third, "--out", out, "--resume", "--json").stdout)
    merged = FeatureField.load(out)
    assert told["views"] == len(whole.provenance.frames) == 8
    assert torch.equal(merged.view_count, whole.view_count)
    torch.testing.assert_close(merged.weight, whole.weight, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(merged.accumulated(), whole.accumulated(), rtol=1e-4, atol=1e-3)
    assert sorted(merged.provenance.frames) == sorted(whole.provenance.frames)


@pytest.mark.slow
def test_a_view_in_two_fields_is_an_error_that_names_both(shards: tuple[Path, list[Path]], tmp_path: Path) -> None:
    whole, (first, *_) = shards
    error = run("merge", first, whole, "--out", tmp_path / "m.field", code=2).stderr
    assert str(first) in error
    assert str(whole) in error
    assert not (tmp_path / "m.field").exists()


@pytest.mark.slow
def test_fields_of_another_extractor_are_not_added(
    small_scene: Path, shards: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    words = [small_scene / "map.ply", small_scene / "stream", "--alignment", small_scene / "alignment.yaml"]
    masks = ["--masks", small_scene / "masks", "--labels", small_scene / "labels.yaml"]
    run("backproject", *words, *masks, "--out", tmp_path / "labels.field")
    with pytest.raises(FieldError):
        merge_fields([FeatureField.load(shards[1][0]), FeatureField.load(tmp_path / "labels.field")])


@pytest.mark.slow
def test_a_killed_merge_leaves_the_old_file_or_the_new_one(shards: tuple[Path, list[Path]], tmp_path: Path) -> None:
    """Killed at any moment: what stands at --out is one of the two, whole, and the next merge goes through."""
    out = tmp_path / "merged.field"
    run("merge", shards[1][0], shards[1][1], "--out", out)
    before = len(FeatureField.load(out).provenance.frames)
    program = "import sys; from feature_gs_ros.cli import main; main(sys.argv[1:])"
    words = [sys.executable, "-c", program, "merge", *map(str, shards[1]), "--out", str(out)]
    for k in range(4):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.8 + 0.5 * k)  # somewhere between its imports and its end
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert len(FeatureField.load(out).provenance.frames) in (before, 8)
    run("merge", *shards[1], "--out", out)
    assert len(FeatureField.load(out).provenance.frames) == 8


@pytest.mark.slow
def test_two_ranks_make_the_field_of_one_process(
    small_scene: Path, shards: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    out = tmp_path / "ranks.field"
    scene = [str(small_scene / name) for name in ("map.ply", "stream")]
    words = [*scene, "--alignment", str(small_scene / "alignment.yaml"), "--extractor", "color", "--out", str(out)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command = [*launch, "feature_gs_ros.cli", "backproject", *words, "--launcher", "torchrun", "--checkpoint", "1"]
    end = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert end.returncode == 0, end.stderr
    merged, whole = FeatureField.load(out), FeatureField.load(shards[0])
    assert torch.equal(merged.view_count, whole.view_count)
    torch.testing.assert_close(merged.accumulated(), whole.accumulated(), rtol=1e-4, atol=1e-3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ranks.field"]


@pytest.mark.slow
def test_the_dask_example_makes_the_whole_field(
    small_scene: Path, shards: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    pytest.importorskip("distributed", reason="pip install distributed")
    example = Path(__file__).parents[2] / "examples/dask_shards.py"
    scene = [small_scene / name for name in ("map.ply", "stream", "alignment.yaml")]
    words = [sys.executable, example, *scene, tmp_path / "dask.field"]
    end = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=300, check=False)
    assert end.returncode == 0, end.stderr
    merged, whole = FeatureField.load(tmp_path / "dask.field"), FeatureField.load(shards[0])
    assert torch.equal(merged.view_count, whole.view_count)
    torch.testing.assert_close(merged.accumulated(), whole.accumulated(), rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_ranks_evaluate_as_one_process(small_scene: Path, tmp_path: Path) -> None:
    masks = ["--masks", small_scene / "masks", "--labels", small_scene / "labels.yaml"]
    words = [small_scene / "map.ply", small_scene / "stream", "--alignment", small_scene / "alignment.yaml"]
    run("backproject", *words, *masks, "--out", tmp_path / "field")
    asked = ["evaluate", "segmentation", tmp_path / "field", "--stream", small_scene / "stream", *masks, "--json"]
    alone = json.loads(run(*asked).stdout)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command = [*launch, "feature_gs_ros.cli", *map(str, asked), "--launcher", "torchrun"]
    end = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert end.returncode == 0, end.stderr
    assert json.loads(end.stdout) == alone  # counts are whole numbers: nothing is rounded


def test_without_torchrun_the_launcher_says_how_to_start(small_scene: Path, tmp_path: Path) -> None:
    words = [small_scene / "map.ply", small_scene / "stream", "--alignment", small_scene / "alignment.yaml"]
    error = run("backproject", *words, "--launcher", "torchrun", "--out", tmp_path / "f", code=2).stderr
    assert "torchrun" in error
