"""What the tests on a real ROS share: nodes in their own processes, and a robot that publishes images and tf."""

from __future__ import annotations

import array
import contextlib
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import rclpy
from geometry_msgs.msg import TransformStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.client import Client
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.msg import Status
from ros.processes import NodeProcess
from ros.scene import SPLAT_FROM_MAP, transform_of

TIMEOUT = 120.0  # s after which what should have come won't: a machine may be busy with other things
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
RELIABLE = QoSProfile(depth=200, reliability=ReliabilityPolicy.RELIABLE)
EVENT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)  # as octomap's updaters subscribe
CONFIGURE, ACTIVATE = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE
DEACTIVATE, CLEANUP = Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP


class Starter:
    """Starts programs; feature_map with the color extractor on the tests' small map."""

    def __init__(self, map_file: Path, folder: Path, robot: Robot):
        self.map_file, self.folder, self.robot = map_file, folder, robot
        self.data = folder / "data"
        self.started: list[NodeProcess] = []
        self.site: Path | None = None  # further Python packages of the nodes
        self.fresh = False  # whether they begin with a new interpreter, as on a robot

    def program(self, program: str, remap: dict[str, str] | None = None, **parameters: object) -> NodeProcess:
        """``a__b`` stands for the parameter a.b."""
        parameters = {key.replace("__", "."): content for key, content in parameters.items()}
        log = self.folder / f"{Path(program).name}.log"
        node = NodeProcess(program, log, parameters, remap, self.site, self.fresh)
        self.started.append(node)
        self.robot.new_node()
        return node

    def feature_map(self, **parameters: object) -> NodeProcess:
        """Unconfigured."""
        return self.program("feature_map", **{**self.defaults, **parameters})

    def active(self, program: str = "feature_map", **parameters: object) -> NodeProcess:
        """feature_map, or a program that is like it, by itself brought to active."""
        node = self.program(program, **{**self.defaults, "autostart": True, **parameters})
        wait_until(lambda: not node.running or self.robot.serves(), 180, "the node's services")
        # It answers nothing until it is configured, for which a busy machine takes long.
        wait_until(lambda: not node.running or self._active_or_silent() == "active", 400, "the node to be active")
        assert node.running, node.log.read_text()
        return node

    def _active_or_silent(self) -> str:
        try:
            return self.robot.state()
        except AssertionError:
            return ""

    @property
    def defaults(self) -> dict[str, object]:
        return {
            "map": str(self.map_file),
            "splat_from_map.scale": SPLAT_FROM_MAP.scale,
            "splat_from_map.rotation_xyzw": [float(v) for v in np.roll(SPLAT_FROM_MAP.quat_wxyz, -1)],
            "splat_from_map.translation": [float(v) for v in SPLAT_FROM_MAP.translation],
            "extractor": "color",
            "extractor_options": "{cell: 4}",
            "data_dir": str(self.data),
            "image_reliability": "reliable",
            "queue_size": 200,
            "tf_timeout": 20.0,  # a frame that is to be used is not lost by a busy machine
            "status_rate": 10.0,
        }

    def end(self) -> None:
        """Stop what still runs, and show what it said."""
        for node in self.started:
            node.stop()
            print(node.log.read_text())


class Watch:
    """~/status since a moment: what became of the frames that were published after it."""

    def __init__(self, robot: Robot, node: str = "/feature_map"):
        self.statuses: list = robot.collect(Status, f"{node}/status", 10)
        wait_until(lambda: len(self.statuses) > 1, what="a status")
        self.mark()

    def mark(self) -> None:
        """Count from here."""
        count = len(self.statuses)
        wait_until(lambda: len(self.statuses) > count + 1, what="a status")
        self.before = self.statuses[-1]

    def outcome(self, frames: int, timeout: float = TIMEOUT) -> tuple[int, dict[str, int]]:
        """Wait until this many frames were seen and each was used or skipped; how many were used, and why not."""

        def settled() -> object:
            now = self.statuses[-1]
            seen, used, left_out = self._since(now)
            return (used, left_out) if seen >= frames and used + sum(left_out.values()) == seen else None

        try:
            used, left_out = wait_until(settled, timeout, f"the outcome of {frames} frames")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self._since(self.statuses[-1])}") from None
        self.mark()
        return used, left_out

    def _since(self, now: Status) -> tuple[int, int, dict[str, int]]:
        before = skipped(self.before)
        left_out = {reason: count - before.get(reason, 0) for reason, count in skipped(now).items()}
        left_out = {reason: count for reason, count in left_out.items() if count}
        return now.frames_seen - self.before.frames_seen, now.frames_used - self.before.frames_used, left_out


class Robot:
    """The test's own node, spinning in a thread: a camera, tf, and a client of services."""

    def __init__(self, camera: Camera, name: str = "robot"):
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node(name, context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self._spin, daemon=True)
        self.thread.start()
        self.camera = camera
        self.images = self.node.create_publisher(Image, "image", RELIABLE)
        self.infos = self.node.create_publisher(CameraInfo, "camera_info", RELIABLE)
        self.tf = self.node.create_publisher(TFMessage, "/tf", RELIABLE)
        self._clients: dict[str, Client] = {}
        self._heard_by: set[str] = set()  # services that are known to know this node; see `client`

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            while self.context.ok():
                self.executor.spin_once(timeout_sec=0.1)

    def close(self) -> None:
        rclpy.shutdown(context=self.context)
        self.thread.join(5)

    def now(self) -> int:
        """ns"""
        return time.time_ns()

    def call(self, kind: type, name: str, request: object, timeout: float = TIMEOUT):
        """Call a service and wait for its response."""
        client = self.client(kind, name, timeout)
        return wait_for_future(client.call_async(request), timeout, name)

    def client(self, kind: type, name: str, timeout: float = TIMEOUT) -> Client:
        """The one client of a service, which is there and knows the client, too.

        What a node answers to a client that it has not discovered yet is lost. Discovery is in order: where a client
        that is made later gets an answer, this one is known. During a transition there is none, for a while.
        """
        if name not in self._clients:
            self._clients[name] = self.node.create_client(kind, name)
        assert self._clients[name].wait_for_service(timeout), f"no service {name}"
        if name not in self._heard_by:
            self._heard_by.add(name)
            state = f"{name.rpartition('/')[0]}/get_state"
            if self.serves(state):
                later = self.node.create_client(GetState, state)
                with contextlib.suppress(AssertionError):
                    wait_until(partial(self._is_answered, later), 10.0)
        return self._clients[name]

    @staticmethod
    def _is_answered(client: Client) -> bool:
        answered = threading.Event()
        client.call_async(GetState.Request()).add_done_callback(lambda _: answered.set())
        return answered.wait(2.0)

    def new_node(self) -> None:
        """A program was started, which knows nobody yet."""
        self._heard_by.clear()

    def serves(self, name: str = "/feature_map/change_state") -> bool:
        """Whether a service is there."""
        return name in dict(self.node.get_service_names_and_types())

    def ask_where_it_spins(self, ask: Callable[[], Future], timeout: float, what: str):
        """What an action client's ``…_async`` answers, or another request that takes no lock of the client.

        Asked in the thread that spins: the request is written down after it was sent, and an answer that another
        thread hears before is dropped.
        """
        asked = wait_for_future(self.executor.create_task(ask), timeout, what)
        return wait_for_future(asked, timeout, what)

    def change_state(self, transition: int, node: str = "/feature_map", timeout: float = TIMEOUT) -> bool:
        request = ChangeState.Request()
        request.transition.id = transition
        return self.call(ChangeState, f"{node}/change_state", request, timeout).success

    def state(self, node: str = "/feature_map") -> str:
        """Of the lifecycle."""
        return self.call(GetState, f"{node}/get_state", GetState.Request()).current_state.label

    def collect(self, kind: type, topic: str, quality: QoSProfile | int = LATCHED) -> list:
        """A list that grows with the topic's messages."""
        messages: list = []
        self.node.create_subscription(kind, topic, messages.append, quality)
        return messages

    def publish_tf(self, stamp: int, translation, quat_wxyz, parent: str = "map", child: str = "camera") -> None:
        transform = TransformStamped()
        transform.header.stamp, transform.header.frame_id = Time(nanoseconds=stamp).to_msg(), parent
        transform.child_frame_id = child
        place, turn = transform.transform.translation, transform.transform.rotation
        place.x, place.y, place.z = (float(v) for v in translation)
        turn.w, turn.x, turn.y, turn.z = (float(v) for v in quat_wxyz)
        self.tf.publish(TFMessage(transforms=[transform]))

    def publish_info(self, stamp: int, **changes: object) -> None:
        self.infos.publish(info_message(self.camera, stamp, **changes))

    def publish_posed(self, pixels: np.ndarray, pose: np.ndarray, frame: str = "camera", **changes: object) -> int:
        """An image now, and tf of its pose ``camera_from_map`` [4, 4] at the same stamp; the stamp."""
        stamp = self.now()
        self.publish_tf(stamp, *transform_of(pose), child=frame)
        self.publish_image(pixels, stamp, frame, **changes)
        return stamp

    def publish_image(self, pixels: np.ndarray, stamp: int, frame: str = "camera", **changes: object) -> None:
        self.images.publish(image_message(pixels, stamp, frame, **changes))


def wait_for_future(future, timeout: float, name: str = ""):
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    assert done.wait(timeout), f"no answer from {name} within {timeout} s"
    return future.result()


def wait_until(condition: Callable[[], object], timeout: float = TIMEOUT, what: str = "") -> object:
    """Wait for something to become true; its value."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what or 'the condition'} did not come about within {timeout} s")


def info_message(camera: Camera, stamp: int, frame: str = "camera", **changes: object) -> CameraInfo:
    """CameraInfo with pixel centres at whole numbers."""
    message = CameraInfo(width=camera.width, height=camera.height, distortion_model="plumb_bob")
    message.header.stamp, message.header.frame_id = Time(nanoseconds=stamp).to_msg(), frame
    cx, cy = camera.cx - 0.5, camera.cy - 0.5
    message.k = [camera.fx, 0.0, cx, 0.0, camera.fy, cy, 0.0, 0.0, 1.0]
    message.p = [camera.fx, 0.0, cx, 0.0, 0.0, camera.fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    message.d = [0.0] * 5
    if camera.distortion is not None:
        message.distortion_model, message.d = camera.distortion.model, list(camera.distortion.coefficients)
    for key, content in changes.items():
        setattr(message, key, content)
    return message


def image_message(pixels: np.ndarray, stamp: int, frame: str = "camera", encoding: str = "rgb8", **changes) -> Image:
    message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding)
    message.header.stamp, message.header.frame_id = Time(nanoseconds=stamp).to_msg(), frame
    message.step = pixels.strides[0]
    message.data = array.array("B", np.ascontiguousarray(pixels).tobytes())
    for key, content in changes.items():
        setattr(message, key, content)
    return message


def skipped(status: Status) -> dict[str, int]:
    """A status's reasons with their counts."""
    return {count.reason: count.count for count in status.frames_skipped}
