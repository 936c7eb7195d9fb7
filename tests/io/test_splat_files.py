"""3DGS PLY read and written, and how a map's format is told."""

from __future__ import annotations

import logging
import math
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement
from splat_samples import C0, REST_COUNTS, assert_holds, random_parameters, write_antimatter, write_ply

from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.io.splats.registry import load_map, save_ply
from tests.errors import raises


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize(("text", "byte_order"), [(False, "<"), (False, ">"), (True, "=")])
def test_reads_what_plyfile_wrote(tmp_path: Path, degree: int, text: bool, byte_order: str) -> None:
    parameters = random_parameters(degree=degree)
    path = write_ply(tmp_path / "map.ply", parameters.columns(), text=text, byte_order=byte_order)
    assert_holds(load_map(path), parameters)


def test_order_type_and_number_of_properties_dont_matter(tmp_path: Path) -> None:
    parameters = random_parameters(5000, degree=2)  # more than one block
    columns = {name: values for name, values in parameters.columns().items() if not name.startswith("n")}
    names = list(np.random.default_rng(1).permutation(list(columns)))
    shuffled: dict = {"segment": np.arange(5000, dtype=np.int32)}
    shuffled |= {name: columns[name].astype(np.float64 if k % 3 else np.float32) for k, name in enumerate(names)}
    shuffled["label"] = np.full(5000, 7, np.uint8)
    assert_holds(load_map(write_ply(tmp_path / "map.ply", shuffled)), parameters)


@pytest.mark.parametrize("text", [False, True])
def test_elements_around_the_vertices_are_stepped_over(tmp_path: Path, text: bool) -> None:
    parameters = random_parameters(7)
    plain = write_ply(tmp_path / "plain.ply", parameters.columns(), text=text)
    camera = PlyElement.describe(np.array([(1.0, 2), (3.0, 4)], [("k", "f8"), ("id", "i2")]), "camera")
    faces = PlyElement.describe(np.array([([0, 1, 2],)], [("vertex_indices", "O")]), "face")
    elements = [camera, PlyData.read(str(plain))["vertex"], faces]
    PlyData(elements, text=text).write(str(tmp_path / "map.ply"))
    assert_holds(load_map(tmp_path / "map.ply"), parameters)


def test_windows_line_ends_in_the_header(tmp_path: Path) -> None:
    parameters = random_parameters(9)
    path = write_ply(tmp_path / "map.ply", parameters.columns())
    header, rows = path.read_bytes().split(b"end_header\n", 1)
    path.write_bytes((header + b"end_header\n").replace(b"\n", b"\r\n") + rows)
    assert_holds(load_map(path), parameters)


def test_nerfstudios_rgb_export_is_a_colour_without_sh(tmp_path: Path) -> None:
    columns: dict = {k: v for k, v in random_parameters(3, degree=0).columns().items() if not k.startswith("f_")}
    columns |= {name: np.array(values, np.uint8) for name, values in zip(
        ("red", "green", "blue"), ([255, 0, 51], [0, 255, 102], [0, 0, 153]), strict=True
    )}  # fmt: skip
    gaussians = load_map(write_ply(tmp_path / "map.ply", columns))
    colours = gaussians.sh[:, 0] * C0 + 0.5
    torch.testing.assert_close(colours, torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.2, 0.4, 0.6]]), rtol=0, atol=1e-6)


def test_mip_splattings_filter_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    columns = random_parameters().columns() | {"filter_3D": np.ones(20, np.float32)}
    load_map(write_ply(tmp_path / "map.ply", columns))
    assert "filter_3D" in caplog.text


def test_unusable_rows_are_dropped_counted_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parameters = random_parameters(10)
    parameters.means[1, 2] = math.nan
    parameters.sh[2, 1, 0] = math.inf
    parameters.quats[3] = 0
    parameters.log_scales[4, 0] = 200
    parameters.log_scales[5, 0] = -200
    with caplog.at_level(logging.WARNING):
        gaussians = load_map(write_ply(tmp_path / "map.ply", parameters.columns()))
    assert gaussians.file_rows.tolist() == [0, 6, 7, 8, 9]
    assert "of 10 Gaussians 5 dropped (3 not finite, 1 zero quaternion, 1 absurd scale)" in caplog.text


def test_a_sound_map_logs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_map(write_ply(tmp_path / "map.ply", random_parameters().columns()))
    assert caplog.text == ""


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_what_is_saved_is_loaded_again(tmp_path: Path, degree: int) -> None:
    gaussians = load_map(write_ply(tmp_path / "in.ply", random_parameters(5000, degree).columns()))
    save_ply(gaussians, tmp_path / "out.ply")
    again = load_map(tmp_path / "out.ply")
    torch.testing.assert_close(again.means, gaussians.means, rtol=0, atol=0)
    torch.testing.assert_close(again.sh, gaussians.sh, rtol=0, atol=0)
    torch.testing.assert_close(again.quats_wxyz, gaussians.quats_wxyz, rtol=0, atol=1e-7)
    torch.testing.assert_close(again.scales, gaussians.scales, rtol=5e-7, atol=0)
    torch.testing.assert_close(again.opacities, gaussians.opacities, rtol=1e-6, atol=0)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_plyfile_reads_what_is_saved(tmp_path: Path, degree: int) -> None:
    parameters = random_parameters(degree=degree)
    save_ply(load_map(write_ply(tmp_path / "in.ply", parameters.columns())), tmp_path / "out.ply")
    ply = PlyData.read(str(tmp_path / "out.ply"))
    assert (ply.text, ply.byte_order, [element.name for element in ply]) == (False, "<", ["vertex"])
    vertex = ply["vertex"]
    expected = parameters.columns() | {f"rot_{k}": parameters.unit_quats[:, k] for k in range(4)}
    assert [p.name for p in vertex.properties] == list(expected)  # Inria's order
    assert {p.val_dtype for p in vertex.properties} == {"f4"}
    np.testing.assert_allclose(1 / (1 + np.exp(-vertex["opacity"])), parameters.opacities, rtol=1e-6)
    del expected["opacity"]  # in float32 an opacity close to 1 knows its logit to few digits
    for name, values in expected.items():
        np.testing.assert_allclose(vertex[name], values, rtol=2e-6, atol=2e-6, err_msg=name)


def test_opacities_0_and_1_survive_as_finite_logits(tmp_path: Path) -> None:
    draw = random_parameters(6)
    opacities = torch.tensor([0.0, 1.0, 1e-30, 1e-6, 1 - 2.0**-24, 0.5])
    gaussians = GaussianMap.from_tensors(
        *(torch.from_numpy(v) for v in (draw.means, draw.quats, np.exp(draw.log_scales))),
        opacities,
        torch.from_numpy(draw.sh),
    )
    save_ply(gaussians, tmp_path / "out.ply")
    logits = PlyData.read(str(tmp_path / "out.ply"))["vertex"]["opacity"]
    assert np.isfinite(logits).all()
    again = load_map(tmp_path / "out.ply").opacities
    assert again[:2].tolist() == [0.0, 1.0]
    torch.testing.assert_close(again, opacities, rtol=5e-6, atol=0)


def test_further_properties_follow_the_usual_ones(tmp_path: Path) -> None:
    gaussians = load_map(write_ply(tmp_path / "in.ply", random_parameters(5000).columns()))
    similarity, label = torch.rand(5000), torch.arange(5000)
    similarity[3] = math.nan
    save_ply(gaussians, tmp_path / "out.ply", {"similarity": similarity, "label": label})
    vertex = PlyData.read(str(tmp_path / "out.ply"))["vertex"]
    assert [p.name for p in vertex.properties][-3:] == ["rot_3", "similarity", "label"]
    np.testing.assert_array_equal(vertex["similarity"], similarity.numpy())
    np.testing.assert_array_equal(vertex["label"], np.arange(5000))
    torch.testing.assert_close(load_map(tmp_path / "out.ply").sh, gaussians.sh, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["x", "f_rest_3", "two words", "", "1st", "línea", "a\nelement face 3"])
def test_a_further_property_that_would_break_the_header_is_refused(tmp_path: Path, name: str) -> None:
    gaussians = load_map(write_ply(tmp_path / "in.ply", random_parameters().columns()))
    with raises("map.name"):
        save_ply(gaussians, tmp_path / "out.ply", {name: torch.zeros(20)})
    assert not (tmp_path / "out.ply").exists()


def test_a_further_property_of_another_length_is_refused(tmp_path: Path) -> None:
    gaussians = load_map(write_ply(tmp_path / "in.ply", random_parameters().columns()))
    with raises("map.shape", "'score'", "20"):
        save_ply(gaussians, tmp_path / "out.ply", {"score": torch.zeros(20, 2)})


def test_an_empty_selection_is_not_written(tmp_path: Path) -> None:
    gaussians = load_map(write_ply(tmp_path / "in.ply", random_parameters().columns()))
    with raises("map.empty"):
        save_ply(gaussians.select(torch.zeros(20, dtype=torch.bool)), tmp_path / "out.ply")


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    gaussians = load_map(write_ply(tmp_path / "map.ply", random_parameters().columns()))
    before = (tmp_path / "map.ply").read_bytes()
    (tmp_path / "folder").mkdir()
    with raises("map.unwritable"):
        save_ply(gaussians, tmp_path / "folder")
    with raises("map.unwritable"):
        save_ply(gaussians, tmp_path / "map.ply" / "out.ply")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "map.ply"]
    assert (tmp_path / "map.ply").read_bytes() == before


@pytest.mark.parametrize("missing", ["x", "opacity", "scale_1", "rot_0", "f_dc_1"])
def test_a_missing_property_is_named_beside_those_there(tmp_path: Path, missing: str) -> None:
    columns = random_parameters().columns()
    del columns[missing]
    with raises("map.unreadable", "'vertex'", missing, "nx"):
        load_map(write_ply(tmp_path / "map.ply", columns))


@pytest.mark.parametrize("kept", [[0], list(range(8)), list(range(1, 10)), [*range(8), 44], list(range(70))])
def test_f_rest_must_make_whole_degrees(tmp_path: Path, kept: list[int]) -> None:
    assert len(kept) not in REST_COUNTS or kept != list(range(len(kept)))
    columns = random_parameters(degree=0).columns()
    columns |= {f"f_rest_{k}": np.zeros(20, np.float32) for k in kept}
    with raises("map.value", f"{len(kept)} properties", "0, 9, 24, 45"):
        load_map(write_ply(tmp_path / "map.ply", columns))


def test_a_point_cloud_is_no_splat(tmp_path: Path) -> None:
    cloud = {name: np.zeros(3, np.float32) for name in "xyz"} | {"red": np.zeros(3, np.uint8)}
    with raises("map.unreadable"):
        load_map(write_ply(tmp_path / "cloud.ply", cloud))


def test_the_content_tells_the_format_not_the_suffix(tmp_path: Path) -> None:
    parameters = random_parameters()
    path = write_ply(tmp_path / "map.ply", parameters.columns())
    assert_holds(load_map(path.rename(tmp_path / "map.bin")), parameters)
    assert len(load_map(write_antimatter(tmp_path / "MAP.SPLAT", parameters))) == 20


@pytest.mark.parametrize(
    ("name", "content", "code", "quoted"),
    [
        ("empty.ply", b"", "map.format", "b''"),
        ("empty.splat", b"", "map.format", "b''"),
        ("empty.pt", b"", "map.damaged|map.format", "b''"),
        ("notes.txt", b"a list of things", "map.format", "3DGS PLY"),
        ("mesh.obj", b"v 0 0 0\n", "map.format", "mesh.obj"),
        ("map.ksplat", b"\0\1", "map.format", "splat-transform map.ksplat map.ply"),
        ("map.lcc", b"{}", "map.format", "splat-transform map.lcc map.ply"),
        (
            "map.ply",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "map.pointer",
            "git lfs pull",
        ),
        ("old.pth", b"\x80\x02\x8a\nl\xfc\x9c", "map.damaged", "old.pth"),
    ],
)
def test_another_format_is_refused(tmp_path: Path, name: str, content: bytes, code: str, quoted: str) -> None:
    (tmp_path / name).write_bytes(content)
    with raises(code, quoted):
        load_map(tmp_path / name)


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with raises("map.unreadable"):
        load_map(tmp_path / "absent.ply")
    with raises("map.unreadable"):
        load_map(tmp_path)
    with raises("map.name"):
        load_map("map\0.ply")
    with raises("map.unreadable"):
        load_map("m" * 5000)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    path = write_ply(tmp_path / "map.ply", random_parameters().columns())
    path.chmod(0)
    with raises("map.unreadable"):
        load_map(path)


def test_loading_holds_about_the_file_in_numpy_memory(tmp_path: Path) -> None:
    path = write_ply(tmp_path / "map.ply", random_parameters(30_000, degree=3).columns())
    size = path.stat().st_size
    tracemalloc.start()
    load_map(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * size


def test_a_real_map_of_a_table(tabletop: Path, tmp_path: Path) -> None:
    path = tabletop / "map.ply"
    gaussians = load_map(path)
    assert (len(gaussians), gaussians.sh_degree, gaussians.dropped.total) == (57425, 1, 0)
    vertex = PlyData.read(str(path))["vertex"]
    np.testing.assert_array_equal(gaussians.means.numpy(), np.stack([vertex[name] for name in "xyz"], axis=1))
    for k in range(3):
        np.testing.assert_allclose(gaussians.scales[:, k], np.exp(vertex[f"scale_{k}"]), rtol=3e-7)
        np.testing.assert_array_equal(gaussians.sh[:, 0, k], vertex[f"f_dc_{k}"])
        for coefficient in range(3):
            np.testing.assert_array_equal(gaussians.sh[:, 1 + coefficient, k], vertex[f"f_rest_{3 * k + coefficient}"])
    np.testing.assert_allclose(gaussians.opacities, 1 / (1 + np.exp(-vertex["opacity"].astype(np.float64))), rtol=1e-7)
    save_ply(gaussians, tmp_path / "out.ply")
    again = load_map(tmp_path / "out.ply")
    torch.testing.assert_close(again.scales, gaussians.scales, rtol=1e-6, atol=0)
    torch.testing.assert_close(again.opacities, gaussians.opacities, rtol=1e-6, atol=0)
    torch.testing.assert_close(again.sh, gaussians.sh, rtol=0, atol=0)


def test_a_ply_by_a_wrong_name_is_read_as_what_it_is(tmp_path: Path) -> None:
    parameters = random_parameters(6)
    assert_holds(load_map(write_ply(tmp_path / "map.splat", parameters.columns())), parameters)
