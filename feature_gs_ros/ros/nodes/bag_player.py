"""The node bag_player: publishes a recording as a camera would, with tf; read by `rosbags`, without storage plugins."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rclpy.time import Time
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from feature_gs_ros.core.errors import ParameterError, StreamError
from feature_gs_ros.io.messages.transform import stamp_ns
from feature_gs_ros.io.streams import rosbag_file
from feature_gs_ros.io.streams.rosbag_file import Bag, Topic
from feature_gs_ros.ros.runtime.guard import explain
from feature_gs_ros.ros.runtime.parameter_table import BAG_PLAYER
from feature_gs_ros.ros.runtime.parameters import declare, value
from feature_gs_ros.ros.runtime.run import run

TYPES = {
    rosbag_file.IMAGE: Image,
    rosbag_file.COMPRESSED_IMAGE: CompressedImage,
    rosbag_file.CAMERA_INFO: CameraInfo,
    rosbag_file.TF: TFMessage,
}
MOVING = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
BETWEEN_ROUNDS = 0.1  # s: a recording of a single moment isn't played as fast as the processor can
STATIC = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class BagPlayer(Node):
    """Images, camera_info and tf under their recorded names; other topics are left out."""

    def __init__(self) -> None:
        """
        Raises:
            StreamError: no recording, a damaged one, or one with nothing to play.
            ParameterError: parameters that don't go together.
        """
        super().__init__("bag_player")
        declare(self, BAG_PLAYER)
        path = str(value(self, "bag"))
        if not path:
            raise ParameterError("parameter bag is empty; give the path of a recording", code="parameter.empty")
        self._keeps_stamps = bool(value(self, "clock")) or not value(self, "restamp")
        self._bag = Bag(Path(path).expanduser())
        if not self._bag.topics:
            others = ", ".join(self._bag.all_topics) or "no topics at all"
            raise StreamError(
                f"the recording '{path}' has no images, camera_info or tf to play; it has {others}", code="stream.empty"
            )
        self._outputs = {
            topic.name: self.create_publisher(
                TYPES[topic.type], topic.name, STATIC if topic.name.endswith("tf_static") else MOVING
            )
            for topic in self._bag.topics
        }
        self._clock_output = self.create_publisher(Clock, "/clock", 10) if value(self, "clock") else None
        self._stopping = threading.Event()
        self.finished = self.failed = False
        self._thread = threading.Thread(target=self._play, name="player")
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _play(self) -> None:
        try:
            pause = float(value(self, "delay"))
            while not self._stopping.wait(pause) and self._play_once() and value(self, "loop"):
                pause = BETWEEN_ROUNDS
            self._stopping.wait(1.0)  # for what was sent last to arrive
        except Exception as error:  # whatever it is, nobody else hears of it
            self.failed = True
            self.get_logger().error(f"playing '{self._bag.path}' failed: {explain(error, self.get_logger())}")
        finally:
            self.finished = True

    def _play_once(self) -> bool:
        """Publish each message at its time; False where playing was ended."""
        rate = float(value(self, "rate"))
        start, first = time.time_ns(), None
        self.get_logger().info(f"playing '{self._bag.path}'")
        for topic, recorded, data in self._bag.serialised():
            first = recorded if first is None else first
            due = start + int((recorded - first) / rate)
            if self._stopping.wait(max(0.0, (due - time.time_ns()) * 1e-9)):
                return False
            if self._clock_output is not None:
                self._clock_output.publish(Clock(clock=Time(nanoseconds=recorded).to_msg()))
            self._publish(topic, data, start, first, rate)
        return True

    def _publish(self, topic: Topic, data: bytes, start: int, first: int, rate: float) -> None:
        if self._keeps_stamps:
            self._outputs[topic.name].publish(data)
            return
        message = deserialize_message(data, TYPES[topic.type])
        for stamped in message.transforms if topic.type == rosbag_file.TF else [message]:
            shifted = start + int((stamp_ns(stamped.header.stamp) - first) / rate)
            stamped.header.stamp = Time(nanoseconds=max(shifted, 0)).to_msg()
        self._outputs[topic.name].publish(message)


def main() -> None:
    """The program bag_player."""
    run(BagPlayer)
