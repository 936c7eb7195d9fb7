"""COLMAP models, text and binary, written here from the format's documentation."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from feature_gs_ros.core.camera import Camera, Distortion
from feature_gs_ros.io.streams.colmap_model import MODELS, camera_from_colmap, read_images, read_points
from feature_gs_ros.io.streams.options import BagOptions
from feature_gs_ros.io.streams.registry import Stream, open_stream
from tests.errors import raises

CameraRow = tuple[int, str, int, int, Sequence[float]]
ImageRow = tuple[int, Sequence[float], Sequence[float], int, str]  # id, qw qx qy qz, t, camera, name
PINHOLE: CameraRow = (3, "PINHOLE", 40, 30, (50.0, 51.0, 20.5, 14.5))
POINTS = [(7, (1.5, -2.0, 3.25), (10, 20, 255), 0.5), (9, (0.0, 1e-3, -4.0), (0, 128, 3), 1.0)]


def pose(angles: Sequence[float], position: Sequence[float]) -> tuple[list[float], list[float], NDArray[np.float64]]:
    """qw qx qy qz, t and the matrix [4, 4] of a world → camera pose."""
    rotation = Rotation.from_euler("xyz", angles)
    x, y, z, w = rotation.as_quat()
    matrix = np.eye(4)
    matrix[:3, :3] = rotation.as_matrix()
    matrix[:3, 3] = position
    return [w, x, y, z], list(position), matrix


Q1, T1, M1 = pose([0.3, -0.7, 1.9], [0.1, -2.0, 3.3])
Q2, T2, M2 = pose([-2.3, 0.1, 0.4], [5.0, 0.25, 1.0])
IMAGES: list[ImageRow] = [(2, Q2, T2, 3, "second view.png"), (1, Q1, T1, 3, "first.png")]


def write_text(model: Path, cameras: Sequence[CameraRow], images: Sequence[ImageRow], points2d: str = "") -> None:
    model.mkdir(parents=True)
    lines = ["# Camera list", "# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]"]
    lines += [f"{key} {name} {width} {height} {' '.join(map(repr, p))}" for key, name, width, height, p in cameras]
    (model / "cameras.txt").write_text("\n".join(lines) + "\n")
    lines = ["# Image list with two lines of data per image:"]
    for key, quat, position, camera, name in images:
        lines += [f"{key} {' '.join(map(repr, map(float, (*quat, *position))))} {camera} {name}", points2d]
    (model / "images.txt").write_text("\n".join(lines) + "\n")
    lines = ["# 3D point list"] + [
        f"{key} {' '.join(map(repr, xyz))} {' '.join(map(str, rgb))} {error} 1 2 2 3" for key, xyz, rgb, error in POINTS
    ]
    (model / "points3D.txt").write_text("\n".join(lines) + "\n")


def write_binary(model: Path, cameras: Sequence[CameraRow], images: Sequence[ImageRow]) -> None:
    model.mkdir(parents=True)
    ids = {name: index for index, (name, _) in enumerate(MODELS)}
    data = struct.pack("<Q", len(cameras))
    for key, name, width, height, parameters in cameras:
        data += struct.pack("<IiQQ", key, ids[name], width, height) + struct.pack(f"<{len(parameters)}d", *parameters)
    (model / "cameras.bin").write_bytes(data)
    data = struct.pack("<Q", len(images))
    for key, quat, position, camera, name in images:
        data += struct.pack("<I7dI", key, *quat, *position, camera) + name.encode() + b"\0"
        data += struct.pack("<Q", 2) + struct.pack("<ddQ", 1.0, 2.0, 7) * 2
    (model / "images.bin").write_bytes(data)
    data = struct.pack("<Q", len(POINTS))
    for key, xyz, rgb, error in POINTS:
        data += struct.pack("<Q3d3BdQ", key, *xyz, *rgb, error, 2) + struct.pack("<II", 1, 2) * 2
    (model / "points3D.bin").write_bytes(data)


def write_image(path: Path, index: int = 0, width: int = 40, height: int = 30) -> NDArray[np.uint8]:
    path.parent.mkdir(parents=True, exist_ok=True)
    rgb = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
    cv2.imwrite(str(path), rgb[:, :, ::-1])
    return rgb


@pytest.mark.parametrize("kind", ["text", "binary"])
@pytest.mark.parametrize("sparse", ["sparse/0", "sparse", "."])
def test_both_formats_in_all_usual_places(tmp_path: Path, kind: str, sparse: str) -> None:
    project = tmp_path / "project"
    model = project / sparse
    if kind == "text":
        write_text(model, [PINHOLE], IMAGES, points2d="12.5 7.25 7 3.0 4.0 -1")
    else:
        write_binary(model, [PINHOLE], IMAGES)
    pictures = {name: write_image(project / "images" / name, key) for key, _, _, _, name in IMAGES}
    for path in {project, model}:
        first, second = open_stream(path).frames()
        assert (first.name, second.name) == ("first", "second view")
        assert first.camera_from_world == pytest.approx(M1, abs=1e-12)
        assert second.camera_from_world == pytest.approx(M2, abs=1e-12)
        assert first.camera == second.camera == Camera(40, 30, 50.0, 51.0, 20.5, 14.5)
        assert (first.image == pictures["first.png"]).all()
        assert Path(first.source) == project / "images" / "first.png"


@pytest.mark.parametrize("kind", ["text", "binary"])
def test_points(tmp_path: Path, kind: str) -> None:
    (write_text if kind == "text" else write_binary)(tmp_path / "m", [PINHOLE], IMAGES)
    xyz, rgb = read_points(tmp_path / "m")
    assert xyz.tolist() == [[1.5, -2.0, 3.25], [0.0, 1e-3, -4.0]]
    assert rgb.dtype == np.uint8
    assert rgb.tolist() == [[10, 20, 255], [0, 128, 3]]


@pytest.mark.parametrize(
    ("model", "parameters", "expected"),
    [
        ("SIMPLE_PINHOLE", (50, 20, 15), (50, 50, None)),
        ("PINHOLE", (50, 60, 20, 15), (50, 60, None)),
        ("SIMPLE_RADIAL", (50, 20, 15, 0.1), (50, 50, Distortion("plumb_bob", (0.1, 0, 0, 0)))),
        ("RADIAL", (50, 20, 15, 0.1, 0.2), (50, 50, Distortion("plumb_bob", (0.1, 0.2, 0, 0)))),
        ("OPENCV", (50, 60, 20, 15, 0.1, 0.2, 0.3, 0.4), (50, 60, Distortion("plumb_bob", (0.1, 0.2, 0.3, 0.4)))),
        ("OPENCV", (50, 60, 20, 15, 0, 0, 0, 0), (50, 60, None)),
        (
            "OPENCV_FISHEYE",
            (50, 60, 20, 15, 0.1, 0.2, 0.3, 0.4),
            (50, 60, Distortion("equidistant", (0.1, 0.2, 0.3, 0.4))),
        ),
        ("OPENCV_FISHEYE", (50, 60, 20, 15, 0, 0, 0, 0), (50, 60, Distortion("equidistant", (0, 0, 0, 0)))),
        ("SIMPLE_RADIAL_FISHEYE", (50, 20, 15, 0.1), (50, 50, Distortion("equidistant", (0.1, 0, 0, 0)))),
        ("RADIAL_FISHEYE", (50, 20, 15, 0.1, 0.2), (50, 50, Distortion("equidistant", (0.1, 0.2, 0, 0)))),
        (
            "FULL_OPENCV",
            (50, 60, 20, 15, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
            (50, 60, Distortion("rational_polynomial", (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8))),
        ),
    ],
)
def test_camera_models(
    model: str, parameters: tuple[float, ...], expected: tuple[float, float, Distortion | None]
) -> None:
    fx, fy, lens = expected
    assert camera_from_colmap(model, 40, 30, parameters) == Camera(40, 30, fx, fy, 20, 15, lens)
    assert len(parameters) == dict(MODELS)[model]


@pytest.mark.parametrize("kind", ["text", "binary"])
@pytest.mark.parametrize("model", ["FOV", "THIN_PRISM_FISHEYE", "RAD_TAN_THIN_PRISM_FISHEYE"])
def test_a_model_without_a_counterpart_is_named(tmp_path: Path, kind: str, model: str) -> None:
    write = write_text if kind == "text" else write_binary
    write(tmp_path / "sparse", [(3, model, 40, 30, (1.0,) * dict(MODELS)[model])], IMAGES)
    write_image(tmp_path / "images" / "first.png")
    with raises("camera.unsupported", "cameras." + ("txt" if kind == "text" else "bin"), model):
        open_stream(tmp_path)


def test_images_in_subfolders_keep_their_names_apart(tmp_path: Path) -> None:
    names = ["left/0001.png", "right/0001.png", "right/0002.png"]
    write_text(tmp_path / "sparse", [PINHOLE], [(i, Q1, T1, 3, name) for i, name in enumerate(names)])
    for name in names:
        write_image(tmp_path / "images" / name)
    assert open_stream(tmp_path).names() == ["left_0001", "right_0001", "right_0002"]


def test_the_same_stem_with_two_suffixes(tmp_path: Path) -> None:
    names = ["a/1.jpg", "a/1.png"]
    write_text(tmp_path / "sparse", [PINHOLE], [(i, Q1, T1, 3, name) for i, name in enumerate(names)])
    for name in names:
        write_image(tmp_path / "images" / name)
    assert open_stream(tmp_path).names() == ["a_1.jpg", "a_1.png"]
    write_text(tmp_path / "twice" / "sparse", [PINHOLE], [(i, Q1, T1, 3, "a/1.jpg") for i in range(2)])
    write_image(tmp_path / "twice" / "images" / "a" / "1.jpg")
    with raises("stream.duplicate", "/1"):
        open_stream(tmp_path / "twice")


def test_reduced_images_scale_the_camera(tmp_path: Path) -> None:
    write_text(tmp_path / "sparse", [PINHOLE], IMAGES)
    for _, _, _, _, name in IMAGES:
        write_image(tmp_path / "images_2" / name, width=20, height=15)
    with raises("stream.missing"):
        open_stream(tmp_path)
    for images in ("images_2", tmp_path / "images_2"):
        frame = next(open_stream(tmp_path, images=images).frames())
        assert frame.camera == Camera(20, 15, 25.0, 25.5, 10.25, 7.25)
        assert frame.image.shape == (15, 20, 3)


def test_what_cannot_be_used_is_counted(tmp_path: Path) -> None:
    images = [
        (1, Q1, T1, 3, "good.png"),
        (2, Q1, T1, 3, "missing.png"),
        (3, [np.nan, 0, 0, 0], T1, 3, "nan.png"),
        (4, [0, 0, 0, 0], T1, 3, "zero.png"),
        (5, Q1, T1, 3, "upright.png"),
        (6, Q1, T1, 3, "empty.png"),
    ]
    write_text(tmp_path / "sparse", [PINHOLE], images)
    for name in ("good", "nan", "zero"):
        write_image(tmp_path / "images" / f"{name}.png")
    write_image(tmp_path / "images" / "upright.png", width=30, height=40)
    (tmp_path / "images" / "empty.png").write_bytes(b"")
    stream = open_stream(tmp_path)
    assert stream.names() == ["good"]
    assert stream.skipped == {
        f"image file is missing in '{tmp_path / 'images'}'": 1,
        "pose is not finite and rigid": 2,
        "image has its camera's sides swapped: turn it as its EXIF orientation says (mogrify -auto-orient)": 1,
        "image file is damaged": 1,
    }
    (tmp_path / "images" / "good.png").unlink()
    with raises("stream.empty"):
        open_stream(tmp_path)


def test_an_image_damaged_behind_its_header_fails_when_it_is_read(tmp_path: Path) -> None:
    write_text(tmp_path / "sparse", [PINHOLE], IMAGES)
    for _, _, _, _, name in IMAGES:
        write_image(tmp_path / "images" / name)
    file = tmp_path / "images" / "first.png"
    file.write_bytes(file.read_bytes()[:200])
    first, second = open_stream(tmp_path).frames()
    with raises("image.damaged", "first.png"):
        _ = first.image
    assert second.image.shape == (30, 40, 3)
    (tmp_path / "images" / "second view.png").unlink()
    with raises("image.unreadable"):
        _ = second.image


@pytest.mark.parametrize(
    ("file", "old", "new", "fault"),
    [
        ("cameras.txt", "3 PINHOLE", "4 PINHOLE", ("stream.damaged",)),
        ("cameras.txt", "50.0 51.0", "50.0", ("stream.damaged",)),
        ("cameras.txt", "40 30", "wide 30", ("stream.damaged", "cameras.txt")),
        ("cameras.txt", "3 PINHOLE 40 30", "3 PINHOLE", ("stream.damaged", "cameras.txt")),
        ("images.txt", " 3 first.png", "", ("stream.damaged", "images.txt")),
        ("images.txt", "1 ", "1 x", ("stream.damaged", "images.txt")),
    ],
)
def test_damaged_text_is_a_stream_error(tmp_path: Path, file: str, old: str, new: str, fault: tuple[str, ...]) -> None:
    write_text(tmp_path / "sparse", [PINHOLE], IMAGES)
    write_image(tmp_path / "images" / "first.png")
    path = tmp_path / "sparse" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with raises(*fault):
        open_stream(tmp_path)


def test_a_camera_without_a_focal_length_names_its_file(tmp_path: Path) -> None:
    write_text(tmp_path / "sparse", [(3, "PINHOLE", 40, 30, (0.0, 51.0, 20.5, 14.5))], IMAGES)
    write_image(tmp_path / "images" / "first.png")
    with raises("camera.range", "cameras.txt", "fx=0"):
        open_stream(tmp_path)


@pytest.mark.parametrize("file", ["cameras.bin", "images.bin", "points3D.bin"])
def test_binary_files_may_end_anywhere(tmp_path: Path, file: str) -> None:
    write_binary(tmp_path / "sparse", [PINHOLE], IMAGES)
    for _, _, _, _, name in IMAGES:
        write_image(tmp_path / "images" / name)
    path = tmp_path / "sparse" / file
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with raises("stream.damaged", file):
            read_points(tmp_path / "sparse") if file == "points3D.bin" else open_stream(tmp_path)


@pytest.mark.parametrize("file", ["cameras.bin", "images.bin", "points3D.bin"])
@pytest.mark.parametrize("count", [3, 2**40, 2**64 - 1])
def test_a_count_beyond_the_file_is_refused(tmp_path: Path, file: str, count: int) -> None:
    write_binary(tmp_path / "sparse", [PINHOLE], IMAGES)
    write_image(tmp_path / "images" / "first.png")
    path = tmp_path / "sparse" / file
    path.write_bytes(struct.pack("<Q", count) + path.read_bytes()[8:])
    with raises("stream.damaged", f"{file}'"):
        read_points(tmp_path / "sparse") if file == "points3D.bin" else open_stream(tmp_path)


def test_counts_inside_a_record_are_checked_too(tmp_path: Path) -> None:
    write_binary(tmp_path / "m", [PINHOLE], IMAGES[:1])
    path = tmp_path / "m" / "images.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[: -2 * 24 - 8] + struct.pack("<Q", 2**63) + whole[-2 * 24 :])
    with raises("stream.damaged", "9223372036854775808", "48"):
        read_images(tmp_path / "m")


def test_an_unknown_camera_model_id(tmp_path: Path) -> None:
    write_binary(tmp_path / "sparse", [PINHOLE], IMAGES)
    write_image(tmp_path / "images" / "first.png")
    path = tmp_path / "sparse" / "cameras.bin"
    path.write_bytes(struct.pack("<QIi", 1, 3, 99) + path.read_bytes()[16:])
    with raises("stream.unsupported", "99"):
        open_stream(tmp_path)


def test_points_out_of_range_are_refused(tmp_path: Path) -> None:
    write_text(tmp_path / "m", [PINHOLE], IMAGES)
    file = tmp_path / "m" / "points3D.txt"
    good = file.read_text()
    for old, new in (("1.5", "nan"), ("255", "256")):
        file.write_text(good.replace(old, new))
        with raises("stream.not-finite"):
            read_points(tmp_path / "m")
    file.write_text("1 2 3 4\n")
    with raises("stream.damaged"):
        read_points(tmp_path / "m")
    file.unlink()
    with raises("stream.missing"):
        read_points(tmp_path / "m")


def test_the_tabletops_points_lie_before_its_cameras(tabletop: Path) -> None:
    xyz, rgb = read_points(tabletop / "colmap" / "sparse")
    assert len(xyz) == len(rgb) > 100
    for frame in open_stream(tabletop / "colmap").frames():
        depth = (xyz @ frame.camera_from_world[:3, :3].T + frame.camera_from_world[:3, 3])[:, 2]
        assert np.median(depth) > 0


def project(folder: Path, kind: str) -> Stream:
    (write_text if kind == "text" else write_binary)(folder / "sparse/0", [PINHOLE], IMAGES)
    for key, _, _, _, name in IMAGES:
        write_image(folder / "images" / name, key)
    return open_stream(folder)


def test_second_lines_that_are_missing_lose_no_image(tmp_path: Path) -> None:
    stream = project(tmp_path, "text")
    lines = (tmp_path / "sparse/0/images.txt").read_text().splitlines()
    images = [line for line in lines if line.strip() and not line.startswith("#")]
    points = " ".join(["12.5 7.25 -1"] * 4)
    for text in (images, [images[0], points, images[1]], [images[0], "", images[1], points]):
        (tmp_path / "sparse/0/images.txt").write_text("\n".join(text) + "\n")
        assert open_stream(tmp_path).names() == stream.names()


def test_a_line_that_is_neither_image_nor_points_is_damage(tmp_path: Path) -> None:
    project(tmp_path, "text")
    with (tmp_path / "sparse/0/images.txt").open("a") as file:
        file.write("1 2 3 4\n")
    with raises("stream.damaged"):
        open_stream(tmp_path)


def test_the_largest_of_several_models_is_read_and_the_others_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    project(tmp_path, "binary")
    write_binary(tmp_path / "sparse/1", [PINHOLE], IMAGES[:1])
    (tmp_path / "sparse/0").rename(tmp_path / "sparse/2")
    write_text(tmp_path / "sparse/0", [PINHOLE], IMAGES[1:])
    assert len(open_stream(tmp_path).names()) == 2
    assert all(f"'{tmp_path / 'sparse' / name}'" in caplog.text for name in "012")
    assert open_stream(tmp_path / "sparse/1").names() == ["second view"]


def test_zeros_beyond_a_models_parameters_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    project(tmp_path, "text")
    cameras = tmp_path / "sparse/0/cameras.txt"
    cameras.write_text(cameras.read_text().rstrip() + " 0.0\n")
    assert next(open_stream(tmp_path).frames()).camera == Camera(40, 30, 50.0, 51.0, 20.5, 14.5)
    assert "zeros too many" in caplog.text
    cameras.write_text(cameras.read_text().rstrip() + " 0.5\n")
    with raises("stream.damaged"):
        open_stream(tmp_path)


@pytest.mark.parametrize("folder", ["input", "rgb", "."])
def test_images_in_usual_places(tmp_path: Path, folder: str) -> None:
    names = project(tmp_path, "text").names()
    (tmp_path / "images").rename(tmp_path / "moved")
    (tmp_path / folder).mkdir(exist_ok=True)
    for file in (tmp_path / "moved").iterdir():
        file.rename(tmp_path / folder / file.name)
    assert open_stream(tmp_path).names() == names


def test_images_in_an_unusual_place_are_asked_for_and_named(tmp_path: Path) -> None:
    names = project(tmp_path, "text").names()
    (tmp_path / "images").rename(tmp_path / "my own")
    with raises("stream.missing", "--images"):
        open_stream(tmp_path)
    assert open_stream(tmp_path, bag=BagOptions(images=Path("my own"))).names() == names
    assert open_stream(tmp_path, bag=BagOptions(images=tmp_path / "my own")).names() == names


@pytest.mark.parametrize("suffix", ["bin", "txt"])
def test_names_in_any_bytes(suffix: str, tmp_path: Path) -> None:
    """Windows' tools write names as their code page has them; Linux takes any bytes."""
    name = b"caf\xe9.png"
    model = tmp_path / "sparse" / "0"
    model.mkdir(parents=True)
    (tmp_path / "images").mkdir()
    (model / f"cameras.{suffix}").write_bytes(
        struct.pack("<QIiQQ4d", 1, 1, 1, 8, 6, 9.0, 9.0, 4.0, 3.0) if suffix == "bin" else b"1 PINHOLE 8 6 9 9 4 3\n"
    )
    (model / f"images.{suffix}").write_bytes(
        struct.pack("<QI7dI", 1, 1, 1, 0, 0, 0, 0, 0, 1, 1) + name + b"\0" + struct.pack("<Q", 0)
        if suffix == "bin"
        else b"1 1 0 0 0 0 0 1 1 " + name + b"\n\n"
    )
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((6, 8, 3), np.uint8))
    (tmp_path / "a.png").rename(Path(os.fsdecode(bytes(tmp_path / "images") + b"/" + name)))
    (frame,) = open_stream(tmp_path).frames()
    assert frame.image.shape == (6, 8, 3)
