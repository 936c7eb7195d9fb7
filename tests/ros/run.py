"""Builds the package with colcon in a temporary workspace and runs tests/ros there, on a real ROS 2.

    python tests/ros/run.py [--all-builds] [--bench] [--keep DIR] [pytest's arguments]

The ROS 2 that is sourced, or the newest one in /opt/ros; where there is none it prints so and ends well. The Python
that runs this file runs the nodes, too. --all-builds also checks the --symlink-install and --merge-install builds;
--bench runs benchmarks/ros.py instead of the tests. --keep builds in DIR and leaves it there, with the compiled
kernels, so that the next run is short.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
DISTRIBUTIONS = ("rolling", "lyrical", "kilted", "jazzy", "iron", "humble")  # newest first
# What ROS's generators import. A Python of its own (a virtual environment) doesn't have them on Ubuntu and Debian.
BUILD_MODULES = ("em", "lark", "catkin_pkg", "docutils", "dateutil", "pyparsing", "six", "packaging", "yaml")
DIST_PACKAGES = Path("/usr/lib/python3/dist-packages")
DOMAINS = ("40-52", "53-65", "66-79")  # ROS_DOMAIN_IDs, of each of the pytests beside each other
NO_SOURCE = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "install", "log", "demo", "out")
# No plugins but pytest's own: Humble's launch_testing brings one that a new pytest refuses.
SETTINGS = "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1"
# Or CMake may find another Python than this one for the messages.
PYTHON = f"-DPython3_EXECUTABLE={sys.executable} -DPYTHON_EXECUTABLE={sys.executable}"
WARM_UP = 'from feature_gs_ros.live.warmup import warm_up; print(f"  in {warm_up():.0f} s")'
CHECK_IMPORTS = """
from feature_gs_ros.msg import Status
from feature_gs_ros.ros.nodes import feature_map
from feature_gs_ros.synthetic import tabletops
print("  imports the messages and", feature_map.__file__)
"""


def main(arguments: list[str]) -> int:
    """The exit code of the tests, or of the build that failed."""
    setup = find_ros()
    if setup is None:
        print("tests/ros skipped: no ROS 2 is sourced, and none stands in /opt/ros")
        return 0
    if run(setup, "command -v colcon", subprocess.DEVNULL):
        print("tests/ros skipped: ROS 2 is here, but colcon is not: install python3-colcon-common-extensions")
        return 0
    builds = [""]
    if "--all-builds" in arguments:
        arguments.remove("--all-builds")
        builds = ["--symlink-install", "--merge-install", ""]
    if missing := [name for name in BUILD_MODULES if importlib.util.find_spec(name) is None]:
        setup += f" && export PYTHONPATH=$PYTHONPATH:{borrowed(missing, DIST_PACKAGES)}"
    with kept_workspace(arguments) as workspace:
        package = workspace / "src" / "feature_gs_ros"
        shutil.rmtree(package, ignore_errors=True)
        shutil.copytree(ROOT, package, ignore=NO_SOURCE)
        for options in builds:
            if failed := build(setup, workspace, options):
                return failed
        # colcon's own overlay goes first on PYTHONPATH, so what is tested is what was installed.
        setup += f" && source {workspace}/install/setup.bash && cd {package}"
        setup += f" && export {SETTINGS} NUMBA_CACHE_DIR={workspace}/numba"
        print("compiling kernels", flush=True)
        if failed := run(setup, shlex.join([sys.executable, "-c", WARM_UP])):
            return failed
        if "--bench" in arguments:
            return run(setup, python("benchmarks.ros"))
        if arguments:
            return run(setup, pytest(arguments if names_files(arguments) else ["tests/ros", *arguments]))
        return run_all_tests(setup)


@contextmanager
def kept_workspace(arguments: list[str]) -> Iterator[Path]:
    """The folder after --keep, which is taken out of the arguments; else a temporary one."""
    if "--keep" not in arguments:
        with tempfile.TemporaryDirectory(prefix="feature_gs_ros-") as name:
            yield Path(name)
        return
    at = arguments.index("--keep")
    _, folder = arguments[at : at + 2]
    del arguments[at : at + 2]
    workspace = Path(folder).resolve()
    workspace.mkdir(parents=True, exist_ok=True)
    yield workspace


def names_files(arguments: Sequence[str]) -> bool:
    """Whether the tests to be run are named by their files."""
    return any(argument.startswith("tests/ros") for argument in arguments)


def run_all_tests(setup: str) -> int:
    """Some pytests beside each other, as tests wait for nodes most of the time; each takes the next file that is left.

    Ctrl-C reaches all of them, as they are of one process group.
    """
    with tempfile.TemporaryDirectory() as claims, ThreadPoolExecutor(len(DOMAINS)) as workers:
        setup += f" && export FEATURE_GS_TEST_CLAIMS={claims}"
        return max(workers.map(lambda domains: run_and_show(setup, domains), DOMAINS))


def run_and_show(setup: str, domains: str) -> int:
    """Run tests on one of some ROS_DOMAIN_IDs, and then print in one piece what they said."""
    with tempfile.TemporaryFile("w+") as output:
        code = run(f"{setup} && export FEATURE_GS_TEST_DOMAINS={domains}", pytest(["tests/ros"]), output)
        output.seek(0)
        print(output.read(), flush=True)
    return code


def pytest(arguments: list[str]) -> str:
    """The command that runs tests."""
    return python("pytest", "-p", "no:cacheprovider", *arguments)


def python(module: str, *arguments: str) -> str:
    """The command that runs a module with this Python."""
    return shlex.join([sys.executable, "-m", module, *arguments])


def find_ros() -> str | None:
    """A command that makes ROS known to a shell; empty where it is sourced already, None where there is none."""
    if os.environ.get("ROS_DISTRO"):
        return "true"
    for name in DISTRIBUTIONS:
        script = Path("/opt/ros") / name / "setup.bash"
        if script.is_file():
            return f"source {script}"
    return None


def borrowed(names: Sequence[str], packages: Path) -> Path:
    """A folder of links to the distribution's modules of these names, and to nothing else that would hide ours."""
    folder = Path(tempfile.mkdtemp(prefix="feature_gs_ros-modules-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name in names:
        for path in (packages / name, packages / f"{name}.py"):
            if path.exists():
                (folder / path.name).symlink_to(path)
    return folder


def build(setup: str, workspace: Path, options: str) -> int:
    """Build, and see that the installed package imports and its programs are where ros2 run looks for them."""
    print(f"colcon build {options}".rstrip(), flush=True)
    if options:  # another kind of build, of which nothing is left over
        for folder in ("build", "install", "log"):
            shutil.rmtree(workspace / folder, ignore_errors=True)
    log = workspace / "build.log"
    if failed := run(setup, f"cd {workspace} && colcon build {options} --cmake-args {PYTHON} > {log} 2>&1"):
        print(log.read_text())
        return failed
    program = '"$(ros2 pkg prefix feature_gs_ros)/lib/feature_gs_ros/feature_map"'
    check = f"source {workspace}/install/setup.bash && cd / && python3 -c {shlex.quote(CHECK_IMPORTS)}"
    return run(setup, f"{check} && test -x {program}")


def run(setup: str, command: str, output: IO[str] | int | None = None) -> int:
    """In bash, with ROS, and with this Python first on the path; the exit code."""
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    script, environment = f"{setup} && {command}", {**os.environ, "PATH": path}
    return subprocess.run(["bash", "-c", script], env=environment, stdout=output, stderr=output).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
