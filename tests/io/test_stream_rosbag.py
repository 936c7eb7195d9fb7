"""Bags written by rosbags' own writer, read back as streams."""

from __future__ import annotations

import gc
import json
import tracemalloc
from importlib import import_module
from pathlib import Path
from typing import Any

import lz4.frame as lz4_frame
import numpy as np
import pytest
import yaml
from recordings import (
    HEIGHT,
    START,
    STEP,
    WIDTH,
    Recorder,
    base_in_map,
    camera_from_map,
    camera_info,
    compressed,
    image,
    optical_in_base,
    picture,
    record,
    tf_message,
    write_tf,
)
from rosbags.rosbag2 import ReaderError, storage_mcap
from rosbags.typesys import Stores, get_typestore
from scipy.spatial.transform import Rotation

from feature_gs_ros.core.camera import Camera, Distortion
from feature_gs_ros.core.errors import CameraError, StreamError
from feature_gs_ros.io.alignment import load_alignment
from feature_gs_ros.io.streams.options import BagOptions
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.io.streams.rosbag import RosbagStream
from feature_gs_ros.io.streams.rosbag_limits import MAX_UNPACKED, limit_rosbags
from tests.errors import raises
from tests.memory_use import peak_megabytes

CAMERA = Camera(WIDTH, HEIGHT, 30.0, 31.0, 16.0, 12.0)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_bag_gives_its_images_cameras_and_poses(tmp_path: Path, storage: str) -> None:
    stamps = record(tmp_path / "bag", storage)
    stream = open_stream(tmp_path / "bag")
    assert stream.names() == [str(stamp) for stamp in stamps]
    frames = list(stream.frames())
    assert [frame.stamp_ns for frame in frames] == stamps
    for index, (stamp, frame) in enumerate(zip(stamps, frames, strict=True)):
        assert (frame.image == picture(index)).all()
        assert frame.camera == CAMERA
        assert frame.camera_from_world == pytest.approx(camera_from_map(stamp), abs=1e-9)
        assert frame.source == "/camera/image_raw"
    assert not stream.skipped


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_the_bare_file_does(tmp_path: Path, storage: str) -> None:
    stamps = record(tmp_path / "bag", storage)
    (file,) = [path for path in (tmp_path / "bag").iterdir() if path.suffix != ".yaml"]
    assert open_stream(file).names() == [str(stamp) for stamp in stamps]
    (tmp_path / "bag" / "metadata.yaml").unlink()  # as a killed recorder leaves it
    assert open_stream(tmp_path / "bag").names() == [str(stamp) for stamp in stamps]


@pytest.mark.parametrize(
    ("storage", "compression"), [("mcap", "storage"), ("mcap", "message"), ("sqlite3", "message"), ("sqlite3", "file")]
)
def test_compressed_bags(tmp_path: Path, storage: str, compression: str) -> None:
    stamps = record(tmp_path / "bag", storage, compression=compression)
    frames = list(open_stream(tmp_path / "bag").frames())
    assert [frame.name for frame in frames] == [str(stamp) for stamp in stamps]
    assert (frames[-1].image == picture(4)).all()


def test_some_frames_by_name(tmp_path: Path) -> None:
    names = [str(stamp) for stamp in record(tmp_path / "bag")]
    stream = open_stream(tmp_path / "bag")
    assert [frame.name for frame in stream.frames([names[3], names[1]])] == [names[1], names[3]]
    assert list(stream.frames([])) == []
    with raises("stream.missing", "'mug'", names[0]):
        stream.frames(["mug", names[0]])


def test_images_without_a_pose_are_counted(tmp_path: Path) -> None:
    with Recorder(tmp_path / "bag") as recorder:
        write_tf(recorder, first=START + STEP, last=START + 3 * STEP)
        recorder.write("/camera/camera_info", camera_info(START), START)
        for index in range(6):
            stamp = START + index * STEP
            recorder.write("/camera/image_raw", image(picture(index), stamp), stamp)
        recorder.write("/camera/image_raw", image(picture(9), START + 2 * STEP), START + 6 * STEP)
        recorder.write("/camera/image_raw", image(picture(9), START + 2 * STEP, "hand"), START + 6 * STEP)
    stream = open_stream(tmp_path / "bag")
    assert stream.names() == [str(START + index * STEP) for index in (1, 2, 3)]
    assert stream.skipped == {
        "no tf of 'base_link' at its stamp": 3,
        "stamp was there before": 1,
        "frame 'hand' is not in tf": 1,
    }
    before = dict(stream.skipped)
    assert len(list(stream.frames())) == 3
    assert stream.skipped == before  # counted anew, not added up


def test_transforms_that_are_none_are_ignored_and_counted(tmp_path: Path) -> None:
    broken = base_in_map(START)
    broken[0, 3] = np.nan
    with Recorder(tmp_path / "bag") as recorder:
        write_tf(recorder)
        recorder.write("/tf", tf_message(("map", "base_link", START, broken)), START)
        zero = tf_message(("map", "base_link", START, base_in_map(START)))
        for axis in "xyzw":
            setattr(zero.transforms[0].transform.rotation, axis, 0.0)
        recorder.write("/tf", zero, START)
        recorder.write("/camera/camera_info", camera_info(START), START)
        recorder.write("/camera/image_raw", image(picture(0), START), START)
    stream = open_stream(tmp_path / "bag")
    (frame,) = stream.frames()
    assert frame.camera_from_world == pytest.approx(camera_from_map(START), abs=1e-9)
    assert stream.skipped == {"transform with NaN, Inf or a zero quaternion in tf": 2}


def test_several_cameras_keep_their_frames_apart(tmp_path: Path) -> None:
    stamps = record(tmp_path / "bag", count=2, topics=("/rig/left/image_raw", "/rig/right/image_raw"))
    stream = open_stream(tmp_path / "bag")
    expected = [f"{stamp}_rig_{side}" for stamp in stamps for side in ("left", "right")]
    assert sorted(stream.names()) == sorted(expected)
    one = open_stream(tmp_path / "bag", bag=BagOptions(image_topics=("/rig/right/image_raw",)))
    assert one.names() == [str(stamp) for stamp in stamps]


def test_cameras_without_a_namespace_are_named_by_their_topics(tmp_path: Path) -> None:
    with Recorder(tmp_path / "bag") as recorder:
        write_tf(recorder)
        for topic in ("/left", "/right"):
            recorder.write(f"{topic}/camera_info", camera_info(START), START)
            recorder.write(topic, image(picture(0), START), START)
    assert open_stream(tmp_path / "bag").names() == [f"{START}_left", f"{START}_right"]


def test_one_topic_of_each_colour_camera_is_read(tmp_path: Path) -> None:
    with Recorder(tmp_path / "bag") as recorder:
        write_tf(recorder)
        for space in ("color", "depth", "infra", "aligned"):
            recorder.write(f"/camera/{space}/camera_info", camera_info(START), START)
        rgb, grey = picture(0), picture(0)[:, :, :1]
        depth = np.zeros((HEIGHT, WIDTH, 1), np.uint16)
        recorder.write("/camera/color/image_rect_color", image(rgb, START), START)
        recorder.write("/camera/color/image_raw/compressed", compressed(rgb, START), START)
        recorder.write("/camera/color/image_raw", image(rgb, START), START)
        recorder.write("/camera/depth/image_rect_raw", image(depth, START, encoding="16UC1"), START)
        depth_png = compressed(rgb, START)
        depth_png.format = "16UC1; compressedDepth png"
        recorder.write("/camera/aligned/image_raw/compressedDepth", depth_png, START)
        recorder.write("/camera/infra/image_rect_raw", image(grey, START, encoding="mono8"), START)
        recorder.write("/overview/image_raw", image(rgb, START), START)
    stream = RosbagStream(tmp_path / "bag")
    (frame,) = stream.frames()
    assert (frame.name, frame.source) == (str(START), "/camera/color/image_raw")
    assert stream.ignored_topics == {
        "/camera/color/image_raw/compressed": "it is the camera of /camera/color/image_raw",
        "/camera/color/image_rect_color": "it is the camera of /camera/color/image_raw",
        "/camera/depth/image_rect_raw": "encoding '16UC1' is not an image that can be read",
        "/camera/aligned/image_raw/compressedDepth": (
            "it has no camera_info (/camera/aligned/image_raw/camera_info or "
            "/camera/aligned/image_raw/compressedDepth/camera_info)"
        ),
        "/camera/infra/image_rect_raw": "it is grey",
        "/overview/image_raw": "it has no camera_info (/overview/camera_info or /overview/image_raw/camera_info)",
    }


def test_a_compressed_topic_finds_its_camera_info_and_a_grey_camera_alone_is_read(tmp_path: Path) -> None:
    with Recorder(tmp_path / "bag") as recorder:
        write_tf(recorder)
        recorder.write("/camera/camera_info", camera_info(START), START)
        recorder.write("/camera/image_raw/compressed", compressed(picture(3), START), START)
    (frame,) = open_stream(tmp_path / "bag").frames()
    assert (frame.image == picture(3)).all()
    with Recorder(tmp_path / "grey") as recorder:
        write_tf(recorder)
        recorder.write("/image/camera_info", camera_info(START), START)  # below the image, as some drivers do
        recorder.write("/image", image(picture(0)[:, :, :1], START, encoding="mono8"), START)
    (frame,) = open_stream(tmp_path / "grey").frames()
    assert (frame.image == picture(0)[:, :, :1]).all()


def test_topics_by_option(tmp_path: Path) -> None:
    with Recorder(tmp_path / "bag") as recorder:
        write_tf(recorder)
        recorder.write("/calibration", camera_info(START, d=np.full(5, 0.01)), START)
        recorder.write("/eye", image(picture(0), START), START)
    with raises("stream.missing", "/eye/camera_info"):
        open_stream(tmp_path / "bag")
    with raises("stream.missing", "'/eye'", "/calibration"):
        open_stream(tmp_path / "bag", bag=BagOptions(image_topics=("/eye",)))
    with raises("stream.missing", "'/eye'", "/other"):
        open_stream(tmp_path / "bag", bag=BagOptions(image_topics=("/eye",), camera_info_topics=("/other",)))
    with raises("stream.missing", "'/nose'", "/eye"):
        open_stream(tmp_path / "bag", bag=BagOptions(image_topics=("/nose",)))
    with raises("stream.conflict", "--image-topics", "--camera-info-topics"):
        open_stream(tmp_path / "bag", bag=BagOptions(image_topics=("/eye",), camera_info_topics=("/a", "/b")))
    with raises("stream.conflict", "--image-topics"):
        open_stream(tmp_path / "bag", bag=BagOptions(camera_info_topics=("/calibration",)))
    options = BagOptions(image_topics=("/eye",), camera_info_topics=("/calibration",))
    (frame,) = open_stream(tmp_path / "bag", bag=options).frames()
    assert frame.camera.distortion == Distortion("plumb_bob", (0.01,) * 5)
    (frame,) = open_stream(tmp_path / "bag", bag=BagOptions(("map"), *options_of(options), rectified=True)).frames()
    assert frame.camera == Camera(WIDTH, HEIGHT, 25.0, 26.0, 15.0, 11.0)


def options_of(options: BagOptions) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return options.image_topics, options.camera_info_topics


def test_a_rectified_topic_is_known_by_its_name(tmp_path: Path) -> None:
    with Recorder(tmp_path / "bag") as recorder:
        write_tf(recorder)
        recorder.write("/camera/camera_info", camera_info(START, d=np.full(5, 0.01)), START)
        recorder.write("/camera/image_rect_color/compressed", compressed(picture(0), START), START)
    (frame,) = open_stream(tmp_path / "bag").frames()
    assert frame.camera == Camera(WIDTH, HEIGHT, 25.0, 26.0, 15.0, 11.0)
    (frame,) = open_stream(tmp_path / "bag", bag=BagOptions(rectified=False)).frames()
    assert frame.camera.fx == 30.0
    assert frame.camera.distortion is not None


def test_a_calibration_file_stands_in_for_camera_info(tmp_path: Path) -> None:
    with Recorder(tmp_path / "bag") as recorder:
        write_tf(recorder)
        recorder.write("/camera/camera_info", camera_info(START, k=np.zeros(9)), START)
        recorder.write("/camera/image_raw", image(picture(0), START), START)
        recorder.write("/other/image_raw", image(picture(0), START), START)
    with raises("stream.empty", "--rectified"):
        open_stream(tmp_path / "bag").names()
    file = tmp_path / "camera.yaml"
    file.write_text(
        f"image_width: {WIDTH}\nimage_height: {HEIGHT}\ncamera_matrix: {{data: [40, 0, 15.5, 0, 40, 11.5, 0, 0, 1]}}\n"
    )
    with raises("stream.conflict"):
        open_stream(tmp_path / "bag", bag=BagOptions(camera_info_file=file))
    options = BagOptions(image_topics=("/camera/image_raw",), camera_info_file=file)
    (frame,) = open_stream(tmp_path / "bag", bag=options).frames()
    assert frame.camera == Camera(WIDTH, HEIGHT, 40.0, 40.0, 16.0, 12.0)
    with raises("camera.unreadable"):
        open_stream(
            tmp_path / "bag",
            bag=BagOptions(camera_info_file=tmp_path / "none.yaml", image_topics=("/camera/image_raw",)),
        )


def test_a_calibration_file_of_another_size_is_refused(tmp_path: Path) -> None:
    record(tmp_path / "bag")
    file = tmp_path / "lens.yaml"
    matrix = {"rows": 3, "cols": 3, "data": [60.0, 0, 31.5, 0, 62.0, 23.5, 0, 0, 1]}
    file.write_text(yaml.safe_dump({"image_width": 2 * WIDTH, "image_height": 2 * HEIGHT, "camera_matrix": matrix}))
    with raises("stream.empty", f"{2 * WIDTH}×{2 * HEIGHT}", f"{WIDTH}×{HEIGHT}", "by 2"):
        open_stream(tmp_path / "bag", bag=BagOptions(camera_info_file=file)).names()


def test_transforms_that_contradict_each_other_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Recorder(tmp_path / "bag") as recorder:
        write_tf(recorder)
        recorder.write("/camera/camera_info", camera_info(START), START)
        recorder.write("/camera/image_raw", image(picture(0), START), START)
        stamp = START - STEP - 1_234
        recorder.write("/tf", tf_message(("map", "base_link", stamp, base_in_map(stamp + STEP))), START)
    open_stream(tmp_path / "bag")
    assert "1 transforms of 'base_link' that contradict" in caplog.text


def test_camera_info_is_the_last_one_before_the_image(tmp_path: Path) -> None:
    with Recorder(tmp_path / "bag") as recorder:
        write_tf(recorder)
        for index, focal in [(1, 30.0), (2, 30.0), (3, 50.0), (4, 30.0)]:
            stamp = START + index * STEP
            info = camera_info(stamp, k=np.array([focal, 0, 15.5, 0, focal, 11.5, 0, 0, 1]))
            recorder.write("/camera/camera_info", info, stamp)
        for index in range(6):
            stamp = START + index * STEP + (STEP // 2 if index == 3 else 0)
            recorder.write("/camera/image_raw", image(picture(index), stamp), stamp)
    frames = list(open_stream(tmp_path / "bag").frames())
    assert [frame.camera.fx for frame in frames] == [30.0, 30.0, 30.0, 50.0, 30.0, 30.0]


def test_an_image_of_another_size_is_counted_and_a_halved_one_scaled(tmp_path: Path) -> None:
    with Recorder(tmp_path / "bag") as recorder:
        write_tf(recorder)
        recorder.write("/camera/camera_info", camera_info(START), START)
        for index, rows in enumerate([picture(0), picture(0)[::2, ::2], picture(0)[:-1]]):
            stamp = START + index * STEP
            recorder.write("/camera/image_raw", image(np.ascontiguousarray(rows), stamp), stamp)
    stream = open_stream(tmp_path / "bag")
    first, second = stream.frames()
    assert first.camera == CAMERA
    assert second.camera == CAMERA.resized(WIDTH // 2, HEIGHT // 2)
    assert second.image.shape == (HEIGHT // 2, WIDTH // 2, 3)
    assert stream.skipped == {f"camera_info describes {WIDTH}×{HEIGHT}, the image is {WIDTH}×{HEIGHT - 1}": 1}


X, Y, Z, W = Rotation.from_matrix(optical_in_base()[:3, :3]).as_quat()
STATIC = [{"parent": "base_link", "child": "camera_optical", "translation": [0.2, 0, 1]}]
URDF = """<robot name="r"><joint name="wheel" type="continuous"><parent link="base_link"/><child link="w"/></joint>
<joint name="mount" type="fixed"><origin xyz="0.2 0 1" rpy="-1.5707963267948966 0 -1.5707963267948966"/>
<parent link="base_link"/><child link="camera_optical"/></joint></robot>"""


def without_static(folder: Path) -> Path:
    with Recorder(folder) as recorder:
        for stamp in (START - STEP, START + STEP):
            recorder.write("/tf", tf_message(("map", "base_link", stamp, base_in_map(stamp))), START)
        recorder.write("/camera/camera_info", camera_info(START), START)
        recorder.write("/camera/image_raw", image(picture(0), START), START)
    return folder


def test_a_bag_without_tf_static_says_what_is_missing(tmp_path: Path) -> None:
    with raises("stream.empty", "'camera_optical'", "/tf_static", "--tf FILE"):
        open_stream(without_static(tmp_path / "bag")).names()
    with raises("stream.missing", "--map-frame", "/tf_static"):
        open_stream(tmp_path / "bag", bag=BagOptions(map_frame="world"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tf.yaml", yaml.safe_dump([STATIC[0] | {"rotation_xyzw": [float(v) for v in (X, Y, Z, W)]}])),
        ("tf.json", json.dumps({"transforms": [STATIC[0] | {"rpy": [-np.pi / 2, 0, -np.pi / 2]}]})),
        ("robot.urdf", URDF),
    ],
)
def test_static_transforms_come_from_a_file(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    stream = open_stream(without_static(tmp_path / "bag"), bag=BagOptions(tf=tmp_path / name))
    assert next(iter(stream.frames())).camera_from_world == pytest.approx(camera_from_map(START), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("tf.yaml", "[]", ("stream.range",)),
        ("tf.yaml", yaml.safe_dump(STATIC), ("stream.conflict",)),
        ("tf.yaml", yaml.safe_dump([STATIC[0] | {"rotation_xyzw": [0, 0, 0, 2]}]), ("stream.value",)),
        ("robot.urdf", URDF.replace("fixed", "floating"), ("stream.range",)),
        ("robot.urdf", URDF.replace('"0.2 0 1"', '"${x} 0 1"'), ("stream.value",)),
        ("robot.urdf", "<robot", ("stream.format",)),
        ("robot.urdf", '<!DOCTYPE a [<!ENTITY b "c">]>' + URDF, ("stream.unsafe",)),
    ],
)
def test_files_of_transforms_that_hold_none(tmp_path: Path, name: str, text: str, fault: tuple[str, ...]) -> None:
    (tmp_path / name).write_text(text)
    with raises(*fault):
        open_stream(without_static(tmp_path / "bag"), bag=BagOptions(tf=tmp_path / name))


def test_the_map_frame_is_an_option(tmp_path: Path) -> None:
    record(tmp_path / "bag")
    with raises("stream.missing", "'odom'", "--map-frame"):
        open_stream(tmp_path / "bag", bag=BagOptions(map_frame="odom"))
    frame = next(open_stream(tmp_path / "bag", bag=BagOptions(map_frame="base_link")).frames())
    assert frame.camera_from_world == pytest.approx(np.linalg.inv(optical_in_base()))


def test_a_robots_own_tf_topics_are_read_where_there_is_no_common_one(tmp_path: Path) -> None:
    with Recorder(tmp_path / "bag") as recorder:
        recorder.write("/robot/tf_static", tf_message(("map", "camera_optical", 0, base_in_map(START))), START)
        recorder.write("/robot/camera/camera_info", camera_info(START), START)
        recorder.write("/robot/camera/image_raw", image(picture(0), START), START)
    (frame,) = open_stream(tmp_path / "bag").frames()
    assert frame.camera_from_world == pytest.approx(np.linalg.inv(base_in_map(START)))


def test_a_bag_without_images_tf_or_a_single_pose_says_so(tmp_path: Path) -> None:
    with Recorder(tmp_path / "blind") as recorder:
        write_tf(recorder)
    with raises("stream.empty", "/tf_static"):
        open_stream(tmp_path / "blind")
    with Recorder(tmp_path / "lost") as recorder:
        recorder.write("/camera/camera_info", camera_info(START), START)
        recorder.write("/camera/image_raw", image(picture(0), START), START)
    with raises("stream.tf", "/tf_static"):
        open_stream(tmp_path / "lost")
    broken = base_in_map(START)
    broken[0, 3] = np.nan
    with Recorder(tmp_path / "broken") as recorder:
        recorder.write("/tf", tf_message(("map", "base_link", START, broken)), START)
        recorder.write("/camera/camera_info", camera_info(START), START)
        recorder.write("/camera/image_raw", image(picture(0), START), START)
    with raises("stream.tf", "/tf"):
        open_stream(tmp_path / "broken")
    with Recorder(tmp_path / "late") as recorder:
        write_tf(recorder, first=START + STEP)
        recorder.write("/camera/camera_info", camera_info(START), START)
        recorder.write("/camera/image_raw", image(picture(0), START), START)
    with raises("stream.empty", "'base_link'"):
        open_stream(tmp_path / "late").names()
    with raises("stream.empty"):
        list(open_stream(tmp_path / "late").frames())


def test_damaged_images_leave_the_others_alone(tmp_path: Path) -> None:
    stamps = [START + index * STEP for index in range(5)]
    with Recorder(tmp_path / "bag") as recorder:
        write_tf(recorder)
        recorder.write("/camera/camera_info", camera_info(START), START)
        for index, stamp in enumerate(stamps):
            message = compressed(picture(index), stamp, suffix=".jpg")
            if index == 1:
                message.data = message.data[: len(message.data) // 2]
            if index == 2:
                message.data = message.data[:10]
            if index == 3:
                recorder.write_bytes("/camera/image_raw/compressed", message.__msgtype__, b"\0\1\0\0nonsense", stamp)
            else:
                recorder.write("/camera/image_raw/compressed", message, stamp)
    stream = open_stream(tmp_path / "bag")
    frames = list(stream.frames())
    assert [frame.stamp_ns for frame in frames] == [stamps[0], stamps[1], stamps[4]]
    assert stream.skipped == {"image is damaged": 1, "message is damaged": 1}
    assert frames[0].image.shape == frames[2].image.shape == (HEIGHT, WIDTH, 3)
    with raises("image.damaged", f"/camera/image_raw/compressed at {stamps[1]}"):
        _ = frames[1].image


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_damaged_bag_is_a_stream_error(tmp_path: Path, storage: str) -> None:
    stamps = record(tmp_path / "bag", storage, count=2)
    (file,) = [path for path in (tmp_path / "bag").iterdir() if path.suffix != ".yaml"]
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [whole[: int(share * len(whole))] for share in np.linspace(0, 0.999, 25)]
    for _ in range(60):
        spoilt = bytearray(whole)
        for position in rng.integers(0, len(whole), 1 + len(whole) // 400):
            spoilt[position] = rng.integers(0, 256)
        damaged.append(bytes(spoilt))
    failed = 0
    for content in damaged:
        file.write_bytes(content)
        for path in (file, tmp_path / "bag"):
            try:
                for frame in open_stream(path).frames():
                    assert frame.image.shape == (HEIGHT, WIDTH, 3)
            except (StreamError, CameraError):
                failed += 1
    assert failed > 2 * 25  # at least all that are cut
    file.write_bytes(whole)
    assert open_stream(file).names() == [str(stamp) for stamp in stamps]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("rosbag2_bagfile_information", "other", ("stream.syntax|stream.unreadable|stream.value",)),
        ("version: 8", "version: 99", ("stream.unreadable", "99")),
        ("mcap\n", "tape\n", ("stream.unreadable",)),
        ("bag.mcap", "gone.mcap", ("stream.unreadable", "gone.mcap")),
        ("message_count", "message_c: [", ("stream.syntax|stream.unreadable|stream.value",)),
        ("nanoseconds: ", "nanoseconds: soon", ("stream.syntax|stream.unreadable|stream.value",)),
    ],
)
def test_damaged_metadata_is_a_stream_error(tmp_path: Path, old: str, new: str, fault: tuple[str, ...]) -> None:
    record(tmp_path / "bag")
    file = tmp_path / "bag" / "metadata.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with raises(*fault):
        open_stream(tmp_path / "bag")


def test_a_recorder_that_was_killed_leaves_a_hint(tmp_path: Path) -> None:
    record(tmp_path / "bag")
    file = tmp_path / "bag" / "bag.mcap"
    file.write_bytes(file.read_bytes()[:-500])
    with raises("stream.unreadable"):
        open_stream(tmp_path / "bag")
    record(tmp_path / "lite", "sqlite3")
    (tmp_path / "lite" / "lite.db3-wal").write_bytes(b"messages")
    with raises("stream.unfinished"):
        open_stream(tmp_path / "lite")


def test_a_split_bag_without_metadata_asks_for_an_index(tmp_path: Path) -> None:
    record(tmp_path / "bag")
    (tmp_path / "bag" / "metadata.yaml").unlink()
    (tmp_path / "bag" / "bag_1.mcap").write_bytes((tmp_path / "bag" / "bag.mcap").read_bytes())
    with raises("stream.unfinished"):
        open_stream(tmp_path / "bag")


def test_a_long_bag_is_streamed(tmp_path: Path) -> None:
    large = np.zeros((480, 640, 3), np.uint8)
    with Recorder(tmp_path / "bag") as recorder:
        write_tf(recorder, last=START + 60 * STEP)
        recorder.write("/camera/camera_info", camera_info(START, width=640, height=480), START)
        for index in range(50):
            recorder.write("/camera/image_raw", image(large, START + index * STEP), START + index * STEP)
    assert (tmp_path / "bag" / "bag.mcap").stat().st_size > 45e6
    stream = open_stream(tmp_path / "bag")
    gc.collect()
    tracemalloc.start()
    count = sum(1 for frame in stream.frames() if frame.image is not None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 50
    assert peak < 16e6


def test_images_are_decoded_when_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path / "bag")
    stream = open_stream(tmp_path / "bag")
    monkeypatch.setattr("feature_gs_ros.io.streams.rosbag.decode_image", lambda *_, **__: pytest.fail("decoded"))
    assert len(stream.names()) == 5
    assert len(list(stream.frames())) == 5


def test_the_recorded_tabletop_agrees_with_its_colmap_model(tabletop: Path) -> None:
    views = [15, 22, 12, 0, 6, 13, 1, 20, 2, 3, 4, 11, 10, 19, 16, 8, 7, 17]  # in the bag's order
    splat_from_map = load_alignment(tabletop / "alignment.yaml")
    colmap = {frame.name: frame for frame in open_stream(tabletop / "colmap").frames()}
    bag = open_stream(tabletop / "stream")
    assert bag.names() == [str(1_700_000_000_000_000_000 + 500_000_000 * index) for index in range(18)]
    assert len(colmap) == 18
    for view, frame in zip(views, bag.frames(), strict=True):
        twin = colmap[str(view)]
        # Rounded numbers in alignment.yaml (12 digits) times positions of some 10 units.
        pose = splat_from_map.camera_from_splat(frame.camera_from_world)
        assert pose == pytest.approx(twin.camera_from_world, abs=1e-9)
        assert frame.camera == twin.camera
        assert (frame.camera.cx, frame.camera.cy) == (640.0, 360.0)
        assert (frame.image == twin.image).all()
    assert not bag.skipped


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_messages_that_unpack_to_gigabytes_are_refused_within_a_limit(storage: str, tmp_path: Path) -> None:
    from rosbags.rosbag2 import StoragePlugin, Writer

    plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
    with Writer(tmp_path / "bag", version=8, storage_plugin=plugin) as writer:
        connection = writer.add_connection("/tf", "tf2_msgs/msg/TFMessage", typestore=get_typestore(Stores.ROS2_HUMBLE))
        bomb = b"".join(_zstd().compress(bytes(1 << 26)) for _ in range(48))  # 3 GB in a few hundred kilobytes
        writer.write(connection, 1, bomb)
    metadata = tmp_path / "bag" / "metadata.yaml"
    content = yaml.safe_load(metadata.read_text())
    content["rosbag2_bagfile_information"] |= {"compression_mode": "message", "compression_format": "zstd"}
    metadata.write_text(yaml.safe_dump(content))
    grown, outcome = peak_megabytes(
        "from feature_gs_ros.io.streams.rosbag_file import Bag",
        f"list(Bag({str(tmp_path / 'bag')!r}).messages(['/tf']))",
    )
    assert outcome.startswith("stream")
    assert grown < 1.5 * (MAX_UNPACKED >> 20)


def test_chunks_are_unpacked_only_as_far_as_they_say() -> None:
    limit_rosbags()
    zstd, lz4 = storage_mcap.DECOMPRESSORS["zstd"], storage_mcap.DECOMPRESSORS["lz4"]
    for unpack, packed in ((zstd, _zstd().compress(bytes(1000))), (lz4, lz4_frame.compress(bytes(1000)))):
        assert unpack(packed, 1000) == bytes(1000)
        with pytest.raises(ReaderError, match="more than 999"):
            unpack(packed, 999)
        with pytest.raises(ReaderError, match="in the middle"):
            unpack(packed[:-6], 1000)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("files", "''"),
        ("relative_file_paths", "7"),
        ("version", "[8]"),
        ("version", "1.0e+400"),
        ("version", "[" * 5000),
        ("message_count", "-1"),
        ("custom_data", "&a [x]\n  more: [*a, *a]"),
        ("compression_mode", "{a: 1}"),
        ("topics_with_message_count", "[3]"),
    ],
)
def test_metadata_of_another_kind_is_a_stream_error(tmp_path: Path, key: str, value: str) -> None:
    record(tmp_path / "bag")
    file = tmp_path / "bag" / "metadata.yaml"
    content = yaml.safe_load(file.read_text())
    content["rosbag2_bagfile_information"][key] = "HERE"
    file.write_text(yaml.safe_dump(content).replace("HERE", value))
    with pytest.raises(StreamError) as caught:
        open_stream(tmp_path / "bag")
    assert len(str(caught.value)) < 1000


def _zstd() -> Any:
    try:
        return import_module("compression.zstd")
    except ImportError:
        return import_module("backports.zstd")
