"""Editing: what each operation does to the Gaussians, and that undoing brings the map back bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from feature_gs_ros import rasterizer
from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.errors import EditError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3, rotation_from_quat_wxyz
from feature_gs_ros.core.sh import sh_rotation
from feature_gs_ros.editing import Delete, Edit, EditedMap, EditStack, Extract, Move, Operation, Recolor, Selection
from feature_gs_ros.editing.operations import LUMINANCE
from feature_gs_ros.io.alignment import load_alignment
from feature_gs_ros.io.splats.registry import load_map, save_ply
from feature_gs_ros.rasterizer.cpu.spherical_harmonics import colors_from_sh
from tests.command_line import run
from tests.errors import raises

CAMERA = Camera(64, 48, 60.0, 58.0, 31.0, 25.0)
POSE = np.array([[1.0, 0, 0, 0.1], [0, 1, 0, -0.05], [0, 0, 1, 3.0], [0, 0, 0, 1]])
TILTED = Sim3(3.0, np.array([0.5, 0.5, -0.5, 0.5]), np.array([1.0, -2.0, 0.5]))  # map_from_splat


def some_map(count: int = 60, degree: int = 3, seed: int = 0) -> GaussianMap:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return GaussianMap.from_tensors(
        normal(count, 3) * 0.5, normal(count, 4), (normal(count, 3) * 0.4 - 2).exp(),
        torch.rand(count, generator=generator) * 0.9 + 0.05, normal(count, (degree + 1) ** 2, 3) * 0.2,
    )  # fmt: skip


def rows(*numbers: int) -> Selection:
    return Selection(torch.tensor(numbers), torch.ones(len(numbers)))


def same(a: EditedMap, b: EditedMap) -> bool:
    names = ("means", "quats_wxyz", "scales", "opacities", "sh")
    return torch.equal(a.present, b.present) and all(
        torch.equal(getattr(a.gaussians, name), getattr(b.gaussians, name)) for name in names
    )


def test_deleting_and_extracting_are_complements() -> None:
    gaussians = some_map()
    deleted = Delete().apply(EditedMap.of(gaussians), rows(3, 5, 8), Sim3.identity())
    extracted = Extract().apply(EditedMap.of(gaussians), rows(3, 5, 8), Sim3.identity())
    assert torch.equal(extracted.present, ~deleted.present)
    assert extracted.present.nonzero()[:, 0].tolist() == [3, 5, 8]
    assert not bool(deleted.changed.any())


def test_a_soft_edge_fades_opacity() -> None:
    gaussians = some_map()
    amounts = torch.tensor([0.25, 0.5, 1.0])
    edited = Delete().apply(EditedMap.of(gaussians), Selection(torch.tensor([1, 2, 3]), amounts), Sim3.identity())
    assert torch.allclose(edited.gaussians.opacities[1:3], gaussians.opacities[1:3] * (1 - amounts[:2]))
    assert not edited.present[3]
    assert edited.changed.nonzero()[:, 0].tolist() == [1, 2]


def test_what_fades_out_of_sight_is_gone_and_what_was_faint_before_stays() -> None:
    gaussians = some_map()
    opacities = gaussians.opacities.clone()
    opacities[[0, 1]] = 0.003  # under 1/255
    opacities[2] = 0.5
    faint = replace(gaussians, opacities=opacities)
    half = Selection(torch.tensor([1, 2]), torch.full((2,), 0.5))
    edited = Delete().apply(EditedMap.of(faint), half, Sim3.identity())
    assert edited.present[:3].tolist() == [True, False, True]


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("scale", [1.0, 1.7])
def test_a_moved_map_looks_the_same_from_the_moved_camera(degree: int, scale: float) -> None:
    """Means, rotations, scales and SH turn together: the counter-moved camera sees the old image."""
    gaussians = some_map(degree=degree)
    quat = np.array([0.8, 0.3, -0.4, 0.33])
    everything = Selection(torch.arange(len(gaussians)), torch.ones(len(gaussians)))
    move = Move((0.3, -0.2, 0.5), tuple(quat), scale)
    moved = move.apply(EditedMap.of(gaussians), everything, Sim3.identity()).gaussians
    rotation = rotation_from_quat_wxyz(quat)
    shift = moved.means[0].double().numpy() - scale * rotation @ gaussians.means[0].double().numpy()
    pose = np.eye(4)
    pose[:3, :3] = POSE[:3, :3] @ rotation.T
    pose[:3, 3] = scale * POSE[:3, 3] - pose[:3, :3] @ shift
    before = rasterizer.view(gaussians, CAMERA, POSE).render_color()
    after = rasterizer.view(moved, CAMERA, pose).render_color()
    assert before.std() > 0.05
    assert (before - after).abs().max() < 2e-3


def test_sh_rotations_compose_and_are_orthogonal() -> None:
    first, second = (rotation_from_quat_wxyz(q) for q in ([0.9, 0.1, 0.3, -0.2], [0.2, -0.7, 0.4, 0.5]))
    both = sh_rotation(first @ second, 3)
    assert np.allclose(both, sh_rotation(first, 3) @ sh_rotation(second, 3), atol=1e-5)
    assert np.allclose(both @ both.T, np.eye(16), atol=1e-5)


def test_a_move_is_in_metres_of_the_map_frame() -> None:
    gaussians = some_map()
    selection = rows(4, 9, 11)
    by = np.array([0.2, -0.1, 0.4])
    moved = Move(tuple(by)).apply(EditedMap.of(gaussians), selection, TILTED).gaussians
    steps = TILTED.apply(moved.means.double().numpy()) - TILTED.apply(gaussians.means.double().numpy())
    assert np.allclose(steps[[4, 9, 11]], by, atol=1e-5)
    assert np.abs(np.delete(steps, [4, 9, 11], axis=0)).max() == 0
    turned = Move(rotation_wxyz=(0.0, 0.0, 0.0, 1.0)).apply(EditedMap.of(gaussians), selection, TILTED).gaussians
    here, there = (TILTED.apply(g.means[selection.rows].double().numpy()) for g in (gaussians, turned))
    weights = gaussians.opacities[selection.rows].double().numpy()
    centroid = np.average(here, axis=0, weights=weights)
    assert np.allclose(there - centroid, (here - centroid) * [-1, -1, 1], atol=1e-4)  # half a turn about z


def colors_from(gaussians: GaussianMap, eye: tuple[float, float, float]) -> Tensor:
    all_rows = np.arange(len(gaussians), dtype=np.int32)
    return torch.from_numpy(
        colors_from_sh(gaussians.sh.numpy(), gaussians.means.numpy(), np.array(eye, np.float32), all_rows)
    )


def bright_map() -> GaussianMap:
    """No colour reaches the clamp at 0, so that colours are what the SH say."""
    gaussians = some_map(degree=2)
    sh = gaussians.sh * 0.15
    sh[:, 0] += 0.5
    return replace(gaussians, sh=sh)


@pytest.mark.parametrize("eye", [(3.0, 0.0, 0.0), (0.0, -2.0, 1.0)])
def test_recolouring_keeps_what_it_says_from_every_side(eye: tuple[float, float, float]) -> None:
    gaussians, target, weights = bright_map(), (0.8, 0.3, 0.1), torch.tensor(LUMINANCE)
    selection = Selection(torch.arange(10), torch.ones(10))
    old = colors_from(gaussians, eye)[:10]

    def painted(paint: str) -> Tensor:
        edited = Recolor(target, paint).apply(EditedMap.of(gaussians), selection, Sim3.identity())  # type: ignore[arg-type]
        new = colors_from(edited.gaussians, eye)
        assert torch.equal(new[10:], colors_from(gaussians, eye)[10:])
        return new[:10]

    assert torch.allclose(painted("flat"), torch.tensor(target).expand(10, 3), atol=1e-5)
    hue = painted("hue")
    assert torch.allclose(hue @ weights, old @ weights, atol=1e-5)  # brightness is each Gaussian's own
    assert torch.allclose(hue / hue[:, :1], (torch.tensor(target) / target[0]).expand(10, 3), atol=1e-4)
    kept = painted("brightness")
    assert torch.allclose(kept / kept[:, :1], old / old[:, :1], atol=1e-4)  # the hue is


def test_brightness_is_the_colours_mean() -> None:
    gaussians = bright_map()
    gaussians = replace(gaussians, sh=gaussians.sh[:, :1])
    edited = Recolor((0.8, 0.3, 0.1), "brightness").apply(EditedMap.of(gaussians), rows(*range(20)), Sim3.identity())
    weights = torch.tensor(LUMINANCE)
    brightness = colors_from(edited.gaussians, (1.0, 0.0, 0.0))[:20] @ weights
    assert float(brightness.mean()) == pytest.approx(float(torch.tensor((0.8, 0.3, 0.1)) @ weights), abs=1e-5)


OPERATIONS: list[Operation] = [Delete(), Extract(), Recolor((0.2, 0.4, 0.9)), Move((0.1, 0.0, 0.2), (1, 2, 0, 1), 1.2)]


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.tuples(st.sampled_from(OPERATIONS), st.sets(st.integers(0, 59), min_size=1, max_size=30)),
        min_size=1,
        max_size=5,
    )
)
def test_undoing_gives_the_map_back_bit_for_bit(edits: list[tuple[Operation, set[int]]]) -> None:
    stack = EditStack(some_map(), TILTED)
    states = [stack.edited()]
    for operation, chosen in edits:
        try:
            states.append(stack.push(Edit(operation, "it", rows(*sorted(chosen)))))
        except EditError:  # of what is gone, or all that is left
            assert same(stack.edited(), states[-1])
    for state in reversed(states[:-1]):
        stack.undo()
        assert same(stack.edited(), state)
    assert stack.edited().gaussians is stack.gaussians
    with raises("edit.history"):
        stack.undo()
    for state in states[1:]:
        stack.redo()
        assert same(stack.edited(), state)
    with raises("edit.history"):
        stack.redo()


def test_a_saved_stack_edits_the_same(tmp_path: Path) -> None:
    stack = EditStack(some_map(), TILTED)
    for number, operation in enumerate([Recolor((0.1, 0.9, 0.3), "flat"), Move(scale=2.0), Delete()]):
        stack.push(Edit(operation, f"thing {number}", rows(number, 10, 20 + number)))
    stack.undo()
    stack.save(tmp_path / "edits")
    again = EditStack.load(tmp_path / "edits", stack.gaussians, TILTED)
    assert same(again.edited(), stack.edited())
    assert [edit.summary for edit in again.edits] == [edit.summary for edit in stack.edits]
    again.redo()
    stack.redo()
    assert same(again.edited(), stack.edited())


def test_files_that_are_no_edits_of_this_map(tmp_path: Path) -> None:
    stack = EditStack(some_map())
    stack.push(Edit(Delete(), "it", rows(1, 2)))
    stack.save(tmp_path / "edits")
    with raises("edit.mismatch"):
        EditStack.load(tmp_path / "edits", some_map(seed=1))
    whole = (tmp_path / "edits").read_bytes()
    for damaged in (whole[:20], whole[: len(whole) // 2], b"", b"no edits", whole.replace(b"delete", b"smudge")):
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(EditError):
            EditStack.load(tmp_path / "damaged", stack.gaussians)
    with raises("edit.unreadable"):
        EditStack.load(tmp_path / "nothing", stack.gaussians)


def test_edits_that_make_no_sense() -> None:
    stack = EditStack(some_map(count=10))
    stack.push(Edit(Delete(), "it", rows(1, 2)))
    with raises("edit.empty"):
        stack.push(Edit(Recolor((1, 0, 0)), "it", rows(1, 2)))
    everything = Selection(torch.arange(10), torch.ones(10))
    for operation in OPERATIONS:
        with raises("edit.everything"):
            stack.push(Edit(operation, "all", everything))
    with raises("edit.value", "10"):
        stack.push(Edit(Delete(), "it", rows(10)))
    assert len(stack.edits) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: Recolor((1.2, 0, 0)),
        lambda: Recolor((float("nan"), 0, 0)),
        lambda: Recolor((0, 0, 0)),
        lambda: Recolor((1, 0, 0), "shiny"),  # type: ignore[arg-type]
        lambda: Move((0, float("nan"), 0)),
        lambda: Move(rotation_wxyz=(0, 0, 0, 0)),
        lambda: Move(scale=0.0),
        lambda: Move((0, 0, 1e300)),
        lambda: Move(rotation_wxyz=(1, 0, 0, 1e300)),
    ],
)
def test_parameters_out_of_range(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(EditError):
        make()


def test_an_exported_ply_keeps_the_bytes_of_what_was_not_touched(tmp_path: Path) -> None:
    save_ply(some_map(), tmp_path / "map.ply", {"further": torch.arange(60.0)})
    stack = EditStack(load_map(tmp_path / "map.ply"), TILTED)
    stack.push(Edit(Delete(), "a", rows(0, 7)))
    stack.push(Edit(Move((0.1, 0.2, 0.3)), "b", rows(5, 6, 7)))
    assert stack.export(tmp_path / "edited.ply", tmp_path / "map.ply") == 58
    size = 4 * (62 + 1)
    old, new = (data[data.index(b"end_header\n") + 11 :] for data in
                ((tmp_path / name).read_bytes() for name in ("map.ply", "edited.ply")))  # fmt: skip
    old_rows, new_rows = ([data[k : k + size] for k in range(0, len(data), size)] for data in (old, new))
    left = [row for row in range(60) if row not in (0, 7)]
    assert len(new_rows) == len(left)
    touched = [row for row, after in zip(left, new_rows, strict=True) if after != old_rows[row]]
    assert touched == [5, 6]
    edited = load_map(tmp_path / "edited.ply")
    assert torch.allclose(edited.means[left.index(5)], stack.edited().gaussians.means[5], atol=1e-6)


@pytest.mark.slow
def test_the_command(small_scene: Path, tmp_path: Path) -> None:
    """Delete the mug by its word, paint the bottle, take both back: the file is the map's again."""
    field, out = tmp_path / "field", tmp_path / "edited.ply"
    run(
        "backproject", small_scene / "map.ply", small_scene / "stream", "--out", field, "--alignment",
        small_scene / "alignment.yaml", "--masks", small_scene / "masks", "--labels", small_scene / "labels.yaml",
    )  # fmt: skip
    whole = load_map(small_scene / "map.ply")
    picture = tmp_path / "picture.png"
    said = run("edit", field, "--delete", "mug", "--out", out, "--picture", picture).stdout
    assert "delete 'mug'" in said
    assert picture.stat().st_size > 1000
    without = load_map(out)
    mug = np.array([-0.12, -0.05, 0.05])  # where the scene's stands, map frame
    at = torch.from_numpy(load_alignment(small_scene / "alignment.yaml").apply(mug)).float()
    reach = 0.06 * load_alignment(small_scene / "alignment.yaml").scale  # 6 cm
    near = [int(((g.means - at).norm(dim=1) < reach).sum()) for g in (whole, without)]
    assert near[0] > 20
    assert near[1] < 0.2 * near[0]
    assert 0.5 * len(whole) < len(without) < len(whole)
    run("edit", field, "--recolor", "bottle", "--color", 0.1, 0.3, 0.9, "--out", out)
    assert "nothing to edit" in run("edit", field, "--recolor", "mug", "--out", out, code=2).stderr
    run("edit", field, "--undo", "--out", out)
    run("edit", field, "--undo", "--out", out)
    assert out.read_bytes() == (small_scene / "map.ply").read_bytes()
    assert "no edit to undo" in run("edit", field, "--undo", "--out", out, code=2).stderr
    run("edit", field, "--redo", "--out", out)
    assert len(load_map(out)) == len(without)


@pytest.mark.slow
def test_the_command_refuses(small_scene: Path, tmp_path: Path) -> None:
    field = tmp_path / "field"
    run("backproject", small_scene / "map.ply", small_scene / "stream", "--out", field, "--alignment",
        small_scene / "alignment.yaml", "--extractor", "color", "--every", 4)  # fmt: skip
    out = tmp_path / "edited.ply"
    for words, expected in (
        ((), "edit.conflict"),
        (("--delete", "red", "--undo"), "edit.conflict"),
        (("--delete", "red", "--extract", "blue"), "edit.conflict"),
        (("--move", "red"), "edit.conflict"),
        (("--delete", "@1,2"), "edit.value"),
        (("--delete", "@9,9,9"), "edit.empty"),
        (("--delete", "red", "--soft-edge", 3), "edit.range"),
        (("--delete", "  "), "prompt.empty"),
    ):
        assert run("edit", field, "--out", out, *words, code=2).error_code == expected
    assert not out.exists()
