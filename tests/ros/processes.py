"""A program of the package in a process of its own: forked from one that has imported torch and rclpy, or new."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from ament_index_python.packages import get_package_prefix

# Most of a node's start is the import of its libraries, seconds of a processor each time: here it is done once.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [f"feature_gs_ros.ros.nodes.{name}" for name in ("feature_map", "feature_extractor", "bag_player")]
)


class NodeProcess:
    """A program of the package with parameters, in a process of its own."""

    def __init__(
        self,
        program: str,
        log: Path,
        parameters: dict[str, object],
        remap: dict[str, str] | None = None,
        site: Path | None = None,  # with further Python packages
        fresh: bool = False,  # begins with an interpreter that has imported nothing, as on a robot
    ):
        self.log = log
        path = Path(get_package_prefix("feature_gs_ros")) / "lib" / "feature_gs_ros" / program
        arguments = [f"{key}:={_yaml(content)}" for key, content in parameters.items()]
        remaps = [f"{a}:={b}" for a, b in (remap or {}).items()]
        command = [str(path), "--ros-args"]
        command += [word for argument in arguments for word in ("-p", argument)]
        command += [word for argument in remaps for word in ("-r", argument)]
        log.touch()
        if not fresh:
            self.process: Forked | subprocess.Popen[bytes] = Forked(command, log, site)
            return
        environment = dict(os.environ)
        if site is not None:
            environment["PYTHONPATH"] = os.pathsep.join([str(site), environment.get("PYTHONPATH", "")])
        with log.open("a") as file:
            self.process = subprocess.Popen(
                ["python3", *command], stdout=file, stderr=subprocess.STDOUT, env=environment
            )

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def stop(self, number: int = signal.SIGINT, timeout: float = 60.0) -> int:
        """Send a signal and wait; the exit code."""
        if self.running:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired as error:  # which tells of what was raised before, too
            self.process.kill()
            self.process.wait()
            said = self.log.read_text()
            raise AssertionError(f"the node did not end within {timeout} s; its log:\n{said}") from error


class Forked:
    """What a test needs of a Popen."""

    def __init__(self, command: list[str], log: Path, site: Path | None) -> None:
        self._process: ForkServerProcess = FORKS.Process(target=_become, args=(command, log, site), daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code.

        Raises:
            TimeoutExpired: it still runs.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("the node", timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _become(command: list[str], log: Path, site: Path | None) -> None:
    """In the child: what the interpreter would do with a program, its arguments and PYTHONPATH."""
    if site is not None:
        sys.path.insert(0, str(site))
    with log.open("a") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")


def _yaml(content: object) -> str:
    if isinstance(content, bool):
        return str(content).lower()
    if isinstance(content, (list, tuple)):
        return "[" + ", ".join(_yaml(item) for item in content) + "]"
    return f"'{content}'" if isinstance(content, str) else str(content)
