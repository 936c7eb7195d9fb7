"""A node for an hour, with a looping recording, tf that drops out and a question a second: memory, frames uncounted.

    python -m benchmarks.ros_hour [MINUTES]

Where the package is built and sourced. Not part of any suite: an hour is an hour.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

PERIOD = 0.1  # s between images
LAP = 200  # images of a lap
DROPOUTS = (60, 90)  # between these images of a lap tf is silent
WARM = 0.2  # of the time, after which memory must be flat


def main(minutes: float) -> dict[str, float]:
    """Print and return the figures."""
    from ros.harness import Robot, Starter
    from ros.scene import CAMERA, camera_from_map, make_map, take_picture

    from feature_gs_ros import FeatureMapClient
    from feature_gs_ros.io.splats.registry import save_ply
    from feature_gs_ros.msg import Status
    from feature_gs_ros.synthetic.bag import BagWriter

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gaussians = make_map()
        save_ply(gaussians, folder / "map.ply")
        with BagWriter(folder / "bag", np.eye(4), CAMERA) as writer:
            writer.write_static(0)
            for tick in range(LAP):
                stamp, pose = int(tick * PERIOD * 1e9), camera_from_map(tick / LAP)
                if not DROPOUTS[0] < tick < DROPOUTS[1]:
                    writer.write_pose(stamp, pose)
                writer.write_image(stamp, take_picture(gaussians, pose))
        robot = Robot(CAMERA)
        starter = Starter(folder / "map.ply", folder, robot)
        starter.fresh = True
        statuses = robot.collect(Status, "/feature_map/status", 10)
        try:
            node = starter.active(
                camera__image="/camera/color/image_raw",
                camera__camera_info="/camera/color/camera_info",
                camera__input="compressed",
                status_rate=1.0,
            )
            starter.program("bag_player", bag=str(folder / "bag"), loop=True)
            end = time.monotonic() + 60 * minutes
            sizes: list[int] = []  # of the node after each question, bytes
            with FeatureMapClient() as client:
                client.wait_for_views(5)
                while time.monotonic() < end:
                    due = time.monotonic() + 1.0
                    client.ask("red")
                    sizes.append(own_bytes(node.process.pid))
                    time.sleep(max(0.0, due - time.monotonic()))
            starter.started[-1].stop()
            time.sleep(3.0)  # what waits for tf is counted after tf_timeout
            last = statuses[-1]
            skipped = sum(count.count for count in last.frames_skipped)
            uncounted = last.frames_seen - last.frames_used - skipped
            early, late = sizes[int(WARM * len(sizes))], float(np.median(sizes[-10:]))
            growth = late / early - 1
            print(
                f"{minutes:g} minutes: {last.frames_seen} frames, {last.frames_used} used, {skipped} skipped, "
                f"{uncounted} uncounted; {len(sizes)} questions; "
                f"{early / 1e6:.0f} to {late / 1e6:.0f} MB: {growth:+.1%}"
            )
            for count in last.frames_skipped:
                print(f"  {count.count}: {count.reason}")
            return {"uncounted frames": float(uncounted), "growth of memory": growth}
        finally:
            starter.end()
            robot.close()


def own_bytes(pid: int) -> int:
    """Memory that a process has to itself: of what it reads from files the system takes back and returns pages."""
    entries = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return 1024 * int(entries["RssAnon"].removesuffix("kB"))


if __name__ == "__main__":
    os.environ.setdefault("ROS_LOCALHOST_ONLY", "1")
    figures = main(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0)
    sys.exit(0 if figures["uncounted frames"] == 0 and figures["growth of memory"] < 0.05 else 1)
