"""Tests on a real ROS 2: skipped, with the reason printed, where none is sourced or this package isn't built."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

REASON = ""
try:
    import rclpy  # noqa: F401

    from feature_gs_ros.msg import Answer  # noqa: F401
except ImportError as error:
    REASON = f"{error}: run tests/ros/run.py, which builds the package on the ROS 2 that is sourced or in /opt/ros"

if REASON:
    collect_ignore_glob = ["test_*.py"]
else:
    from feature_gs_ros import FeatureMapClient
    from feature_gs_ros.core.gaussians import GaussianMap
    from feature_gs_ros.io.splats.registry import save_ply
    from ros.harness import Robot, Starter
    from ros.scene import CAMERA, make_map


def pytest_terminal_summary(terminalreporter) -> None:
    if REASON:
        terminalreporter.write_line(f"tests/ros skipped: {REASON}")


def _free_domain() -> int:
    """A ROS_DOMAIN_ID none of whose UDP ports is in use on this host."""
    used = set()
    for name in ("/proc/net/udp", "/proc/net/udp6"):
        lines = Path(name).read_text().splitlines()[1:] if Path(name).exists() else []
        used |= {int(line.split()[1].rpartition(":")[2], 16) for line in lines}
    first, last = os.environ.get("FEATURE_GS_TEST_DOMAINS", "40-79").split("-")
    domains = list(range(int(first), int(last) + 1))
    random.shuffle(domains)
    for domain in domains:
        port = 7400 + 250 * domain
        if not used & set(range(port, port + 250)):
            return domain
    raise RuntimeError(f"no ROS_DOMAIN_ID from {first} to {last} is free")


if not REASON and os.environ.get("FEATURE_GS_TEST_DOMAIN") is None:
    os.environ["FEATURE_GS_TEST_DOMAIN"] = os.environ["ROS_DOMAIN_ID"] = str(_free_domain())
    os.environ["ROS_LOCALHOST_ONLY"] = "1"
    os.environ.setdefault("FEATURE_GS_THREADS", "2")
    # Nodes start by `env python3`: let that be this Python, whatever colcon or a version manager put before it.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


@cache
def _is_ours(file: str) -> bool:
    """Whether this pytest takes the tests of a file, where several share them out: the first that comes to it does."""
    claims = os.environ.get("FEATURE_GS_TEST_CLAIMS")
    if claims is None:
        return True
    try:
        Path(claims, file).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Another's tests are done here: they neither run nor count."""
    return None if _is_ours(item.path.name) else True


@pytest.fixture(scope="session")
def gaussians() -> GaussianMap:
    return make_map()


@pytest.fixture(scope="session")
def map_file(gaussians: GaussianMap, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("map") / "map.ply"
    save_ply(gaussians, path)
    return path


@pytest.fixture(scope="module")
def robot() -> Iterator[Robot]:
    robot = Robot(CAMERA)
    yield robot
    robot.close()


@pytest.fixture(scope="module")
def client() -> Iterator[FeatureMapClient]:
    """Of /feature_map, which need not be there yet."""
    with FeatureMapClient(timeout=120.0, name="test_client") as client:
        yield client


@pytest.fixture
def start(map_file: Path, tmp_path: Path, robot: Robot) -> Iterator[Starter]:
    """Starts programs for one test."""
    starter = Starter(map_file, tmp_path, robot)
    yield starter
    starter.end()


@pytest.fixture(scope="module")
def start_once(map_file: Path, tmp_path_factory: pytest.TempPathFactory, robot: Robot) -> Iterator[Starter]:
    """Starts programs for all tests of a module."""
    starter = Starter(map_file, tmp_path_factory.mktemp("nodes"), robot)
    yield starter
    starter.end()
