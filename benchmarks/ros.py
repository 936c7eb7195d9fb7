"""The ROS node on a real ROS 2: a large cloud, the steps of a question, a stream; ``tests/ros/run.py --bench`` runs it.

In processes of their own as on a robot, started as the tests start them.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.scenes import CAMERA, POSE, room, seconds
from feature_gs_ros.backprojection.field import FeatureField, Provenance
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.extractors import make_extractor
from feature_gs_ros.io.messages.point_cloud import FIELDS, gaussian_cloud
from feature_gs_ros.io.splats.registry import load_map, save_ply
from feature_gs_ros.pictures import to_image
from feature_gs_ros.rasterizer import view

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

CLOUD = 1_000_000
QUESTION = int(os.environ.get("FEATURE_GS_BENCH_GAUSSIANS", 1_000_000))
DIMENSION = 512
STREAM = 100_000
SECONDS = 20.0
VIEWS = 24


def main() -> dict[str, float]:
    """Print and return the figures; nothing where ROS isn't sourced."""
    try:
        import rclpy  # noqa: F401

        import feature_gs_ros.msg  # noqa: F401
    except ImportError as error:
        print(f"skipped: {error}; run python tests/ros/run.py --bench")
        return {}
    os.environ.setdefault("ROS_LOCALHOST_ONLY", "1")
    with tempfile.TemporaryDirectory() as folder:
        return cloud() | question(Path(folder)) | stream(Path(folder), 10.0) | stream(Path(folder), 30.0)


def cloud() -> dict[str, float]:
    """From tensors to a message, over sensor_msgs_py's create_cloud of an array that is ready."""
    from sensor_msgs.msg import PointField
    from sensor_msgs_py.point_cloud2 import create_cloud
    from std_msgs.msg import Header

    from feature_gs_ros.ros.convert.answers import cloud_message

    gaussians, similarity = room(CLOUD), torch.rand(CLOUD)
    fields = [
        PointField(name=name, offset=4 * k, datatype=PointField.FLOAT32, count=1) for k, name in enumerate(FIELDS)
    ]
    ready = np.random.default_rng(0).random((CLOUD, len(FIELDS)), dtype=np.float32)
    ours = seconds(lambda: cloud_message(gaussian_cloud(gaussians, Sim3.identity(), similarity), Header()), 9)
    theirs = seconds(lambda: create_cloud(Header(), fields, ready), 9)
    print(
        f"cloud of 1M: {1e3 * ours:.0f} ms, create_cloud of a ready array {1e3 * theirs:.0f} ms: {ours / theirs:.2f}x"
    )
    return {"cloud over create_cloud": ours / theirs}


def question(folder: Path) -> dict[str, float]:
    """~/query_text from call to response: the fraction of each step."""
    from ros.harness import ACTIVATE, CONFIGURE, Robot, Starter

    from feature_gs_ros.srv import QueryText

    gaussians = room(QUESTION)
    save_ply(gaussians, folder / "large.ply")
    gaussians = load_map(folder / "large.ply")  # through logarithms and back: the values that the node sees
    options = _extractor_of_vectors(folder)
    extractor = make_extractor("precomputed", **options)
    features = torch.randn(QUESTION, DIMENSION)
    features[gaussians.means[:, 0] > 2.45] += 3 * extractor.embed(["thing"])[0]
    field = FeatureField(
        features,
        torch.ones(QUESTION),
        torch.ones(QUESTION, dtype=torch.int32),
        extractor.identity,
        Provenance(gaussians.checksum),
    )
    field.save(folder / "data" / "field.safetensors")
    del features, field
    robot = Robot(CAMERA)
    starter = Starter(folder / "large.ply", folder, robot)
    starter.fresh = True
    words = ", ".join(f"{key}: {content}" for key, content in options.items())
    starter.feature_map(
        extractor="precomputed",
        extractor_options=f"{{{words}}}",
        load_on_activate=True,
        splat_from_map__scale=1.0,
        splat_from_map__rotation_xyzw=[0.0, 0.0, 0.0, 1.0],
        splat_from_map__translation=[0.0, 0.0, 0.0],
    )
    try:
        assert robot.change_state(CONFIGURE)
        assert robot.change_state(ACTIVATE, timeout=300)
        request = QueryText.Request(text="thing", threshold=0.1)
        figures = {}
        for name in ("first question", "question again"):
            start = time.perf_counter()
            response = robot.call(QueryText, "/feature_map/query_text", request, 300)
            total = time.perf_counter() - start
            steps = {step.step: step.seconds for step in response.answer.timing}
            steps["transport"] = total - sum(steps.values())
            fractions = ", ".join(f"{step} {1e3 * s:.0f} ms ({s / total:.0%})" for step, s in steps.items())
            print(f"{name}, {QUESTION} x {DIMENSION}, {response.cloud.width} found: {1e3 * total:.0f} ms: {fractions}")
            figures[f"{name}, s"] = total
        return figures
    finally:
        starter.end()
        robot.close()


def stream(folder: Path, rate: float) -> dict[str, float]:
    """640×480 images with the color extractor onto 100k Gaussians."""
    from ros.harness import Robot, Starter, Watch, wait_until

    from feature_gs_ros.srv import Save

    gaussians = room(STREAM)
    save_ply(gaussians, folder / "room.ply")
    poses = [_turned(k / VIEWS) for k in range(VIEWS)]
    images = [to_image(view(gaussians, CAMERA, pose).render_color()) for pose in poses]
    robot = Robot(CAMERA)
    starter = Starter(folder / "room.ply", folder, robot)
    starter.fresh = True
    try:
        starter.active(
            extractor_options="{cell: 16}",
            queue_size=10,
            status_rate=1.0,
            splat_from_map__scale=1.0,
            splat_from_map__rotation_xyzw=[0.0, 0.0, 0.0, 1.0],
            splat_from_map__translation=[0.0, 0.0, 0.0],
            publish_map_cloud=False,
        )
        wait_until(lambda: robot.images.get_subscription_count() == 1)
        watch = Watch(robot)
        robot.publish_info(robot.now())
        for k in range(VIEWS):  # kernels compiled, buffers warm
            robot.publish_posed(images[k], poses[k])
            time.sleep(0.2)
        watch.outcome(VIEWS, 60)
        sent, start = 0, time.monotonic()
        while time.monotonic() - start < SECONDS:
            robot.publish_posed(images[sent % VIEWS], poses[sent % VIEWS])
            sent += 1
            time.sleep(max(0.0, start + sent / rate - time.monotonic()))
        used, left_out = watch.outcome(sent, 60)
        latency = watch.statuses[-1].latency
        assert robot.call(Save, "/feature_map/save", Save.Request(path="stream.safetensors")).success
        names = [int(name) for name in FeatureField.load(folder / "data" / "stream.safetensors").provenance.frames]
        in_order = names == sorted(names)
        hertz = used / SECONDS
        print(
            f"stream at {rate:g} Hz: {hertz:.1f} Hz used, {sum(left_out.values())} of {sent} dropped and counted, "
            f"p95 latency {1e3 * latency:.0f} ms, {'in order' if in_order else 'OUT OF ORDER'}"
        )
        return {f"stream at {rate:g} Hz, used": hertz, f"stream at {rate:g} Hz, p95 latency": latency}
    finally:
        starter.end()
        robot.close()


def _extractor_of_vectors(folder: Path) -> dict[str, str]:
    """Options of a `precomputed` extractor that knows the words thing and other, by random vectors."""
    rng = np.random.default_rng(1)
    (folder / "maps").mkdir()
    np.save(folder / "maps" / "a.npy", np.zeros((2, 2, DIMENSION), np.float32))
    words = {word: rng.normal(size=DIMENSION).astype(np.float32) / DIMENSION**0.5 for word in ("thing", "other")}
    np.savez(folder / "words.npz", **words)
    return {"folder": str(folder / "maps"), "embeddings": str(folder / "words.npz"), "teacher": "benchmark"}


def _turned(step: float) -> np.ndarray:
    """The room seen from its wall, from another side for each step of a turn."""
    angle = 2 * np.pi * step
    turn = np.eye(4)
    turn[0, 0], turn[0, 2], turn[2, 0], turn[2, 2] = np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)
    pose: np.ndarray = POSE @ turn
    return pose


if __name__ == "__main__":
    main()
