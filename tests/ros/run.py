"""Builds the package with colcon in a temporary workspace and runs tests/ros there, on a real ROS 2.

    python tests/ros/run.py [--all-builds] [--bench] [pytest's arguments]

The ROS 2 that is sourced, or the newest one in /opt/ros; where there is none it prints so and ends well. The Python
that runs this file runs the nodes, too. --all-builds also checks the --symlink-install and --merge-install builds;
--bench runs benchmarks/ros.py instead of the tests.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DISTRIBUTIONS = ("rolling", "kilted", "jazzy", "iron", "humble")  # newest first
NO_SOURCE = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "install", "log", "demo", "out")
# No plugins but pytest's own: Humble's launch_testing brings one that a new pytest refuses.
SETTINGS = "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1"
# Or CMake may find another Python than this one for the messages.
PYTHON = f"-DPython3_EXECUTABLE={sys.executable} -DPYTHON_EXECUTABLE={sys.executable}"
CHECK_IMPORTS = """
from feature_gs_ros.msg import Status
from feature_gs_ros.ros import feature_map
from feature_gs_ros.synthetic import tabletops
print("  imports the messages and", feature_map.__file__)
"""


def main(arguments: list[str]) -> int:
    """The exit code of the tests, or of the build that failed."""
    setup = find_ros()
    if setup is None:
        print("tests/ros skipped: no ROS 2 is sourced, and none stands in /opt/ros")
        return 0
    if run(setup, "command -v colcon", quiet=True):
        print("tests/ros skipped: ROS 2 is here, but colcon is not: install python3-colcon-common-extensions")
        return 0
    builds = [""]
    if "--all-builds" in arguments:
        arguments.remove("--all-builds")
        builds = ["--symlink-install", "--merge-install", ""]
    with tempfile.TemporaryDirectory(prefix="feature_gs_ros-") as name:
        workspace = Path(name)
        package = workspace / "src" / "feature_gs_ros"
        shutil.copytree(ROOT, package, ignore=NO_SOURCE)
        for options in builds:
            if failed := build(setup, workspace, options):
                return failed
        # colcon's own overlay goes first on PYTHONPATH, so what is tested is what was installed.
        work = ["pytest", "tests/ros", "-p", "no:cacheprovider", *arguments]
        if "--bench" in arguments:
            work = ["benchmarks.ros"]
        tests = shlex.join([sys.executable, "-m", *work])
        sourced = f"source {workspace}/install/setup.bash && cd {package}"
        return run(setup, f"{sourced} && {SETTINGS} NUMBA_CACHE_DIR={workspace}/numba {tests}")


def find_ros() -> str | None:
    """A command that makes ROS known to a shell; empty where it is sourced already, None where there is none."""
    if os.environ.get("ROS_DISTRO"):
        return "true"
    for name in DISTRIBUTIONS:
        script = Path("/opt/ros") / name / "setup.bash"
        if script.is_file():
            return f"source {script}"
    return None


def build(setup: str, workspace: Path, options: str) -> int:
    """Build, and see that the installed package imports and its programs are where ros2 run looks for them."""
    print(f"colcon build {options}".rstrip(), flush=True)
    for folder in ("build", "install", "log"):
        shutil.rmtree(workspace / folder, ignore_errors=True)
    log = workspace / "build.log"
    if failed := run(setup, f"cd {workspace} && colcon build {options} --cmake-args {PYTHON} > {log} 2>&1"):
        print(log.read_text())
        return failed
    program = '"$(ros2 pkg prefix feature_gs_ros)/lib/feature_gs_ros/feature_map"'
    check = f"source {workspace}/install/setup.bash && cd / && python3 -c {shlex.quote(CHECK_IMPORTS)}"
    return run(setup, f"{check} && test -x {program}")


def run(setup: str, command: str, quiet: bool = False) -> int:
    """In bash, with ROS, and with this Python first on the path."""
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    output = subprocess.DEVNULL if quiet else None
    script = f"{setup} && {command}"
    return subprocess.run(["bash", "-c", script], env={**os.environ, "PATH": path}, stdout=output).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
