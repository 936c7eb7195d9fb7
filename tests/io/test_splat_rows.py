"""copy_ply_rows: what an edit doesn't touch keeps its bytes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plyfile import PlyData, PlyElement
from splat_samples import C0, random_parameters, write_antimatter, write_compressed, write_ply

from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.io.splats.registry import copy_ply_rows, load_map, save_ply
from tests.errors import raises


def rows_of(path: Path) -> tuple[bytes, list[bytes]]:
    """Header and vertex rows of a binary PLY whose only element is 'vertex'."""
    header, body = path.read_bytes().split(b"end_header\n", 1)
    size = PlyData.read(str(path), mmap=False)["vertex"].data.dtype.itemsize
    return header, [body[start : start + size] for start in range(0, len(body), size)]


def strange_ply(path: Path, byte_order: str = "<") -> Path:
    """5000 rows with a further property of each kind, comments, and a NaN with a payload."""
    columns: dict = random_parameters(5000).columns()
    columns = {"id": np.arange(5000, dtype=np.int32), **columns, "weight": np.linspace(0, 1, 5000)}
    write_ply(path, columns, byte_order=byte_order)
    content = path.read_bytes().replace(b"element vertex", b"comment element vertex 17 once\nelement vertex", 1)
    size = len(content.split(b"end_header\n", 1)[1]) // 5000
    payload = b"\x01\x00\xa0\x7f" if byte_order == "<" else b"\x7f\xa0\x00\x01"  # a signalling NaN
    at = len(content) - 4990 * size + 4  # x of row 10
    path.write_bytes(content[:at] + payload + content[at + 4 :])
    return path


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("as_mask", [True, False])
def test_kept_rows_and_the_header_keep_their_bytes(tmp_path: Path, byte_order: str, as_mask: bool) -> None:
    source = strange_ply(tmp_path / "in.ply", byte_order)
    mask = torch.rand(5000, generator=torch.Generator().manual_seed(1)) < 0.3
    mask[10] = True
    copy_ply_rows(source, tmp_path / "out.ply", mask if as_mask else mask.nonzero()[:, 0])
    header, rows = rows_of(source)
    new_header, new_rows = rows_of(tmp_path / "out.ply")
    assert new_header == header.replace(b"element vertex 5000", b"element vertex %d" % mask.sum())
    assert new_rows == [rows[k] for k in mask.nonzero()[:, 0].tolist()]


def test_keeping_everything_copies_the_file(tmp_path: Path) -> None:
    source = strange_ply(tmp_path / "in.ply")
    copy_ply_rows(source, tmp_path / "out.ply", torch.ones(5000, dtype=torch.bool))
    assert (tmp_path / "out.ply").read_bytes() == source.read_bytes()


def test_a_map_knows_its_rows(tmp_path: Path) -> None:
    """Deleting from a loaded map of which Gaussians were dropped."""
    source = strange_ply(tmp_path / "in.ply")
    gaussians = load_map(source)  # row 10 is dropped
    left = gaussians.select(gaussians.means[:, 0] > 0)
    copy_ply_rows(source, tmp_path / "out.ply", left.file_rows)
    again = load_map(tmp_path / "out.ply")
    for name in ("means", "quats_wxyz", "scales", "opacities", "sh"):
        torch.testing.assert_close(getattr(again, name), getattr(left, name), rtol=0, atol=0)
    assert again.checksum == left.checksum


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_edited_rows_take_new_values_and_the_others_dont(tmp_path: Path, byte_order: str) -> None:
    source = strange_ply(tmp_path / "in.ply", byte_order)
    gaussians = load_map(source)
    chosen = gaussians.select(torch.tensor([4500, 3, 4095]))  # of other blocks, not in order
    moved = GaussianMap.from_tensors(
        chosen.means + 1, chosen.quats_wxyz, chosen.scales * 2, chosen.opacities, chosen.sh + 0.25
    )
    keep = torch.ones(5000, dtype=torch.bool)
    keep[[0, 4999]] = False
    copy_ply_rows(source, tmp_path / "out.ply", keep, moved, chosen.file_rows)
    kept = keep.nonzero()[:, 0].tolist()
    (_, before), (_, after) = rows_of(source), rows_of(tmp_path / "out.ply")
    edited = chosen.file_rows.tolist()
    changed = [row for row, new in zip(kept, after, strict=True) if new != before[row]]
    assert changed == sorted(edited)
    again = load_map(tmp_path / "out.ply")
    at = torch.tensor([again.file_rows.tolist().index(kept.index(row)) for row in edited])
    torch.testing.assert_close(again.means[at], moved.means, rtol=0, atol=0)
    torch.testing.assert_close(again.sh[at], moved.sh, rtol=0, atol=0)
    torch.testing.assert_close(again.scales[at], moved.scales, rtol=1e-6, atol=0)
    torch.testing.assert_close(again.opacities[at], moved.opacities, rtol=1e-6, atol=0)
    vertex = PlyData.read(str(tmp_path / "out.ply"), mmap=False)["vertex"]
    assert vertex["id"].tolist() == kept  # what the map doesn't know stays
    np.testing.assert_array_equal(vertex["weight"], np.linspace(0, 1, 5000)[kept])


def test_text_keeps_its_lines(tmp_path: Path) -> None:
    source = write_ply(tmp_path / "in.ply", random_parameters(6).columns(), text=True)
    gaussians = load_map(source)
    keep = torch.tensor([True, False, True, True, False, True])
    moved = gaussians.select(torch.tensor([2]))
    moved = GaussianMap.from_tensors(moved.means * 3, moved.quats_wxyz, moved.scales, moved.opacities, moved.sh)
    copy_ply_rows(source, tmp_path / "out.ply", keep, moved, torch.tensor([2]))
    before, after = source.read_text().splitlines()[-6:], (tmp_path / "out.ply").read_text().splitlines()[-4:]
    assert [after[0], after[2], after[3]] == [before[0], before[3], before[5]]
    again = load_map(tmp_path / "out.ply")
    torch.testing.assert_close(again.means[1], moved.means[0], rtol=0, atol=0)
    torch.testing.assert_close(again.scales[1], moved.scales[0])


@pytest.mark.parametrize("text", [False, True])
def test_other_elements_come_along(tmp_path: Path, text: bool) -> None:
    vertex = PlyData.read(str(write_ply(tmp_path / "plain.ply", random_parameters(6).columns())), mmap=False)["vertex"]
    camera = PlyElement.describe(np.array([(1.5, 2), (3.5, 4)], [("k", "f8"), ("id", "i2")]), "camera")
    version = PlyElement.describe(np.array([(7,)], [("major", "u1")]), "version")
    PlyData([camera, vertex, version], text=text).write(str(tmp_path / "in.ply"))
    copy_ply_rows(tmp_path / "in.ply", tmp_path / "out.ply", torch.tensor([1, 5]))
    ply = PlyData.read(str(tmp_path / "out.ply"), mmap=False)
    assert [element.name for element in ply] == ["camera", "vertex", "version"]
    np.testing.assert_array_equal(ply["camera"].data, camera.data)
    np.testing.assert_array_equal(ply["version"].data, version.data)
    np.testing.assert_array_equal(ply["vertex"]["x"], vertex["x"][[1, 5]])


def test_source_and_target_may_be_one_file(tmp_path: Path) -> None:
    path = strange_ply(tmp_path / "map.ply")
    _, rows = rows_of(path)
    copy_ply_rows(path, path, torch.arange(100, 4900))
    assert rows_of(path)[1] == rows[100:4900]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(masks=st.lists(st.lists(st.booleans(), min_size=12, max_size=12).filter(any), min_size=2, max_size=2))
def test_cutting_twice_is_cutting_once(tmp_path: Path, masks: list[list[bool]]) -> None:
    source = write_ply(tmp_path / "in.ply", random_parameters(12).columns())
    first, second = (torch.tensor(mask) for mask in masks)
    if not (first & second).any():
        return
    copy_ply_rows(source, tmp_path / "a.ply", first)
    copy_ply_rows(tmp_path / "a.ply", tmp_path / "b.ply", second[first])
    copy_ply_rows(source, tmp_path / "c.ply", first & second)
    assert (tmp_path / "b.ply").read_bytes() == (tmp_path / "c.ply").read_bytes()


@pytest.mark.parametrize(
    ("keep", "fault"),
    [
        (torch.zeros(20, dtype=torch.bool), ("map.empty", "20")),
        (torch.ones(19, dtype=torch.bool), ("map.shape", "19", "20")),
        (torch.tensor([20]), ("map.value", "19")),
        (torch.tensor([-1]), ("map.value", "19")),
        (torch.tensor([0.5]), ("map.value", "19")),
        (torch.tensor([[1, 2]]), ("map.value", "19")),
        (torch.tensor([], dtype=torch.int64), ("map.empty", "20")),
    ],
)
def test_rows_that_arent_there(tmp_path: Path, keep: torch.Tensor, fault: tuple[str, ...]) -> None:
    source = write_ply(tmp_path / "in.ply", random_parameters().columns())
    with raises(*fault):
        copy_ply_rows(source, tmp_path / "out.ply", keep)
    assert not (tmp_path / "out.ply").exists()


def test_edits_that_dont_fit(tmp_path: Path) -> None:
    source = write_ply(tmp_path / "in.ply", random_parameters().columns())
    everything = torch.arange(20)
    gaussians = load_map(source).select(torch.tensor([1, 2]))
    for rows in (torch.tensor([1]), torch.tensor([1, 1])):
        with raises("map.value"):
            copy_ply_rows(source, tmp_path / "out.ply", everything, gaussians, rows)
    for rows, edited in ((torch.tensor([1, 2]), None), (None, gaussians)):
        with raises("map.conflict"):
            copy_ply_rows(source, tmp_path / "out.ply", everything, edited, rows)
    for degree, fault in ((2, ("map.unreadable",)), (0, ("map.unsupported",))):
        other = load_map(write_ply(tmp_path / "other.ply", random_parameters(2, degree).columns()))
        with raises(*fault):
            copy_ply_rows(source, tmp_path / "out.ply", everything, other, torch.tensor([1, 2]))


def test_sources_whose_rows_cant_be_taken_apart(tmp_path: Path) -> None:
    everything = torch.ones(20, dtype=torch.bool)
    parameters = random_parameters()
    compressed = write_compressed(tmp_path / "compressed.ply", parameters)
    with raises("map.unsupported"):
        copy_ply_rows(compressed, tmp_path / "out.ply", everything)
    plain = PlyData.read(str(write_ply(tmp_path / "plain.ply", parameters.columns())))["vertex"]
    faces = PlyElement.describe(np.array([([0, 1, 2],)], [("vertex_indices", "O")]), "face")
    PlyData([plain, faces]).write(str(tmp_path / "mesh.ply"))
    with raises("map.unsupported"):
        copy_ply_rows(tmp_path / "mesh.ply", tmp_path / "out.ply", everything)
    with raises("map.unreadable"):
        copy_ply_rows(write_antimatter(tmp_path / "map.splat", parameters), tmp_path / "out.ply", everything)
    with raises("map.unwritable"):
        copy_ply_rows(tmp_path / "absent.ply", tmp_path / "out.ply", everything)
    (tmp_path / "text.ply").write_bytes(
        write_ply(tmp_path / "t.ply", parameters.columns(), text=True).read_bytes().rsplit(b"\n", 3)[0] + b"\n" * 2000
    )
    with raises("map.damaged", "18", "20"):
        copy_ply_rows(tmp_path / "text.ply", tmp_path / "out.ply", everything)
    assert not (tmp_path / "out.ply").exists()


def test_a_target_that_cant_be_written(tmp_path: Path) -> None:
    source = write_ply(tmp_path / "in.ply", random_parameters().columns())
    with raises("map.unwritable"):
        copy_ply_rows(source, source / "out.ply", torch.arange(20))


def test_saved_maps_can_be_cut_too(tmp_path: Path) -> None:
    gaussians = load_map(write_ply(tmp_path / "in.ply", random_parameters(20, 3).columns()))
    save_ply(gaussians, tmp_path / "saved.ply", {"similarity": torch.arange(20) / 20})
    copy_ply_rows(tmp_path / "saved.ply", tmp_path / "out.ply", torch.tensor([3, 19]))
    vertex = PlyData.read(str(tmp_path / "out.ply"))["vertex"]
    assert [round(float(value), 6) for value in vertex["similarity"]] == [0.15, 0.95]
    assert not math.isnan(vertex["x"][0])


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_a_map_of_plain_colours_is_edited(tmp_path: Path, text: bool, kind: type) -> None:
    """nerfstudio's export without SH: red, green and blue from 0 to 255, whole numbers or not."""
    columns = random_parameters(8, degree=0).columns()
    for name, color in (("red", 10), ("green", 20), ("blue", 30)):
        columns[name] = np.full(8, color, kind)
    columns = {name: values for name, values in columns.items() if not name.startswith("f_dc")}
    source = write_ply(tmp_path / "in.ply", columns, text=text)
    gaussians = load_map(source)
    chosen = gaussians.select(torch.tensor([2, 5]))
    colors = torch.tensor([[0.2, 0.4, 0.6], [1.5, -0.5, 0.5]])  # beyond what a byte holds
    painted = GaussianMap.from_tensors(
        chosen.means + 1, chosen.quats_wxyz, chosen.scales, chosen.opacities, ((colors - 0.5) / C0)[:, None]
    )
    copy_ply_rows(source, tmp_path / "out.ply", torch.ones(8, dtype=torch.bool), painted, torch.tensor([5, 2]))
    written = PlyData.read(str(tmp_path / "out.ply"))["vertex"].data
    assert written.dtype.names == tuple(columns)
    found = np.stack([written[name] for name in ("red", "green", "blue")], axis=1)
    byte = kind is np.uint8
    assert found[5].tolist() == pytest.approx([51, 102, 153], abs=1e-3)
    assert found[2].tolist() == pytest.approx([255, 0, 128] if byte else [382.5, -127.5, 127.5], abs=1e-3)
    others = [0, 1, 3, 4, 6, 7]
    assert found[others].tolist() == [[10, 20, 30]] * 6
    again = load_map(tmp_path / "out.ply")
    torch.testing.assert_close(again.means[5], gaussians.means[2] + 1)
    torch.testing.assert_close(again.means[others], gaussians.means[others], rtol=1e-6, atol=0)
