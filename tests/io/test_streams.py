"""open_stream, the plain folder, and what all streams have in common."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from recordings import record

from feature_gs_ros.core.camera import Camera, Distortion
from feature_gs_ros.io.streams.frame_names import unique_names
from feature_gs_ros.io.streams.options import BagOptions
from feature_gs_ros.io.streams.registry import open_stream
from tests.errors import raises

POSE = [[0, -1, 0, 1.0], [1, 0, 0, 2.0], [0, 0, 1, 3.0], [0, 0, 0, 1]]


def entry(image: str = "images/1.png", **values: Any) -> dict[str, Any]:
    camera = {"width": 40, "height": 30, "fx": 50.0, "fy": 51.0, "cx": 20.5, "cy": 14.5}
    return {"image": image, **camera, "camera_from_world": POSE, **values}


def write(folder: Path, content: Any, images: tuple[str, ...] = ("images/1.png",)) -> Path:
    for index, name in enumerate(images):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), np.full((30, 40, 3), (index, 0, 9), np.uint8))
    (folder / "cameras.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("as_list", [False, True])
def test_a_plain_folder(tmp_path: Path, as_list: bool) -> None:
    lens = {"model": "plumb_bob", "coefficients": [0.1, 0.2, 0.3, 0.4]}
    entries = [entry(), entry("images/2.png", name="the mug", distortion=lens)]
    images = ("images/1.png", "images/2.png")
    stream = open_stream(write(tmp_path, entries if as_list else {"frames": entries}, images))
    assert stream.names() == ["1", "the mug"]
    first, second = stream.frames()
    assert first.camera == Camera(40, 30, 50.0, 51.0, 20.5, 14.5)
    assert first.camera_from_world.tolist() == POSE
    assert second.camera.distortion == Distortion("plumb_bob", (0.1, 0.2, 0.3, 0.4))
    assert second.image[0, 0].tolist() == [9, 0, 1]
    assert [frame.name for frame in stream.frames(["the mug"])] == ["the mug"]
    with raises("stream.missing", "'2'", "'1'", "'the mug'"):
        stream.frames(["2"])
    assert open_stream(tmp_path / "cameras.json").names() == ["1", "the mug"]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ({}, ("stream.value",)),
        ([1], ("stream.value",)),
        ([], ("stream.empty",)),
        ([entry(image="")], ("stream.value", "'image'")),
        ([entry(), entry()], ("stream.duplicate",)),
        ([entry(), entry("images/2.png", name="1")], ("stream.duplicate", "'1'")),
        ([entry("n" * 300)], ("stream.empty",)),
        ([entry(camera_from_world=None)], ("stream.value",)),
        ([entry(camera_from_world=[[1], [2, 3]])], ("stream.value",)),
        ([entry(camera_from_world=np.transpose(POSE).tolist())], ("stream.empty",)),
        ([{key: value for key, value in entry().items() if key != "fx"}], ("camera.value", "'fx'")),
        ([entry(fx=-1)], ("camera.range", "images/1.png", "fx=-1")),
        ([entry(width=0)], ("camera.value", "'width'")),
        ([entry(distortion={"model": "omni", "coefficients": []})], ("camera.value", "'model'", "'omni'")),
        ([entry(distortion={"coefficients": []})], ("camera.value", "'model'")),
        ([entry(distortion={"model": ["a"], "coefficients": []})], ("camera.value", "'model'", "'a'")),
        ([entry("/"), entry("/")], ("stream.duplicate",)),
        ([entry(distortion={"model": "plumb_bob"})], ("camera.value", "'coefficients'")),
    ],
)
def test_a_folders_file_that_cannot_be_used_is_refused(tmp_path: Path, content: Any, fault: tuple[str, ...]) -> None:
    with raises(*fault):
        open_stream(write(tmp_path, content, ("images/1.png", "images/2.png")))


def test_json_that_is_none_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [])
    (tmp_path / "cameras.json").write_text('[{"camera_from_world"')
    for path in (tmp_path, tmp_path / "cameras.json"):
        with raises("stream.syntax"):
            open_stream(path)


def test_what_is_no_stream_is_refused(tmp_path: Path) -> None:
    with raises("stream.unreadable"):
        open_stream(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("hello")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with raises("stream.format"):
            open_stream(path)
    record(tmp_path / "bag")
    renamed = tmp_path / "bag" / "bag.mcap"
    renamed = renamed.rename(tmp_path / "stream.bin")
    with raises("stream.format", ".mcap or .db3"):
        open_stream(renamed)


def test_a_damaged_bag_of_ros_1_is_sent_to_its_tool(tmp_path: Path) -> None:
    (tmp_path / "old.bag").write_bytes(b"#ROSBAG V2.0\n" + bytes(50))
    with raises("stream.unreadable"):
        open_stream(tmp_path / "old.bag")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "folder", [entry()])
    (tmp_path / "folder").chmod(0)
    with raises("stream.unreadable"):
        open_stream(tmp_path / "folder")
    (tmp_path / "folder").chmod(0o700)


def test_two_kinds_in_one_folder_must_be_told_apart(tmp_path: Path) -> None:
    write(tmp_path, [entry()])
    (tmp_path / "transforms.json").write_text("{}")
    with raises("stream.conflict", "cameras.json"):
        open_stream(tmp_path)
    assert open_stream(tmp_path / "cameras.json").names() == ["1"]


def test_options_that_belong_to_another_kind_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "folder", [entry()])
    with raises("stream.conflict", "--map-frame world"):
        open_stream(tmp_path / "folder", bag=BagOptions(map_frame="world"))
    options = BagOptions(image_topics=("/left", "/right"), camera_info_file=Path("lens.yaml"), rectified=False)
    words = "--image-topics /left --image-topics /right --camera-info-file lens.yaml --rectified False"
    with raises("stream.conflict", words):
        open_stream(tmp_path / "folder", bag=options)
    assert open_stream(tmp_path / "folder", bag=BagOptions()).names() == ["1"]
    record(tmp_path / "bag")
    with raises("stream.conflict", "images='x'"):
        open_stream(tmp_path / "bag", images="x")


def test_names_come_from_stems_as_long_as_these_differ() -> None:
    assert unique_names(["a/1.png", "b/2.png"]) == ["1", "2"]
    assert unique_names(["./a/1.png", "/b/1.png", "../b/2.png"]) == ["a_1", "b_1", ".._b_2"]
    assert unique_names(["a\\1.png", "b\\1.png"]) == ["a_1", "b_1"]
    assert unique_names(["a/1.png", "a/1.jpg"]) == ["a_1.png", "a_1.jpg"]
    assert unique_names([]) == []
    with raises("stream.duplicate"):
        unique_names(["a/1.png", "./a/1.png"])
