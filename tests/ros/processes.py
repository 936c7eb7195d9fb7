"""A program of the package in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from ament_index_python.packages import get_package_prefix


class NodeProcess:
    """A program of the package with parameters, in a process of its own."""

    def __init__(
        self,
        program: str,
        log: Path,
        parameters: dict[str, object],
        remap: dict[str, str] | None = None,
        site: Path | None = None,  # with further Python packages
    ):
        self.log = log
        environment = dict(os.environ)
        if site is not None:
            environment["PYTHONPATH"] = os.pathsep.join([str(site), environment.get("PYTHONPATH", "")])
        path = Path(get_package_prefix("feature_gs_ros")) / "lib" / "feature_gs_ros" / program
        arguments = [f"{key}:={_yaml(content)}" for key, content in parameters.items()]
        remaps = [f"{a}:={b}" for a, b in (remap or {}).items()]
        command = ["python3", str(path), "--ros-args"]
        command += [word for argument in arguments for word in ("-p", argument)]
        command += [word for argument in remaps for word in ("-r", argument)]
        with log.open("a") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def stop(self, number: int = signal.SIGINT, timeout: float = 60.0) -> int:
        """Send a signal and wait; the exit code."""
        if self.running:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the node did not end within {timeout} s; its log:\n{self.log.read_text()}") from None


def _yaml(content: object) -> str:
    if isinstance(content, bool):
        return str(content).lower()
    if isinstance(content, (list, tuple)):
        return "[" + ", ".join(_yaml(item) for item in content) + "]"
    return f"'{content}'" if isinstance(content, str) else str(content)
