"""What kernels take of a multiprocessor, read from the compiler: registers, shared memory, spills, and the occupancy.

For tests and documents; no card is needed, but ``ptxas`` is, which `pip install nvidia-cuda-nvcc` brings.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from feature_gs_ros.core.errors import BackendError
from feature_gs_ros.rasterizer.cuda.compile import compile_ahead
from feature_gs_ros.rasterizer.cuda.runtime import BLOCK

# Threads that a multiprocessor can hold, by compute capability (CUDA programming guide, "Compute Capabilities").
MAX_THREADS = {75: 1024, 80: 2048, 86: 1536, 87: 1536, 88: 1536, 89: 1536, 90: 2048, 100: 2048, 103: 2048, 110: 1536,
               120: 1536, 121: 1536}  # fmt: skip
REGISTERS = 65536  # of a multiprocessor, of all of these, shared by its four (7.5: also four) schedulers' warps
REGISTER_UNIT = 256  # registers that a warp is given at once
SCHEDULERS = 4
SHARED_MEMORY = 64 << 10  # bytes of a multiprocessor: what the smallest of these has
WARP = 32

ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")
NAME = re.compile(r"(\w+?)_[0-9a-f]{6,}_cuda_kernel_forward")


@dataclass(frozen=True)
class Resources:
    """Of one kernel on one architecture."""

    kernel: str
    architecture: int
    registers: int  # per thread
    shared_memory: int  # bytes per block
    stack: int  # bytes per thread: arrays that aren't in registers
    spills: int  # bytes per thread, stored and loaded

    @property
    def occupancy(self) -> float:
        """Warps that a multiprocessor can hold of those that it could, 0 … 1."""
        per_warp = -(-self.registers * WARP // REGISTER_UNIT) * REGISTER_UNIT
        warps = REGISTERS // SCHEDULERS // per_warp * SCHEDULERS
        blocks = min(warps * WARP // BLOCK, MAX_THREADS[self.architecture] // BLOCK)
        if self.shared_memory:
            blocks = min(blocks, SHARED_MEMORY // self.shared_memory)
        return blocks * BLOCK / MAX_THREADS[self.architecture]


def find_ptxas() -> Path | None:
    """The assembler of the PyPI wheel, which is as new as Warp's PTX, else the system's; None where there is none."""
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        found = sorted(Path(folder).glob("c*/bin/ptxas"))  # cu13/, and cuda_nvcc/ in wheels of CUDA 12
        if found:
            return found[-1]
    system = shutil.which("ptxas")
    return Path(system) if system else None


def kernel_resources(architecture: int, ptxas: Path) -> list[Resources]:
    """Of every kernel of the backend.

    Raises:
        BackendError: Warp or the assembler doesn't know the architecture, or is too old for the other.
    """
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for binary in compile_ahead(architecture, Path(folder), ptx=True):
            text = Path(folder) / "kernel.ptx"
            text.write_bytes(binary.read_bytes().rstrip(b"\0"))
            command = [ptxas, "-v", f"-arch=sm_{architecture}", text, "-o", Path(folder) / "kernel.cubin"]
            result = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
            if result.returncode != 0:
                raise BackendError(
                    f"{ptxas} fails for sm_{architecture}: {result.stderr.strip()[:500]}", code="backend.unusable"
                )
            found += _parsed(result.stderr, architecture)
    return found


def _parsed(report: str, architecture: int) -> list[Resources]:
    """Of the assembler's report, in which each kernel has an entry, its spills and what it uses."""
    found = []
    for part in report.split("Compiling entry function '")[1:]:
        name, spills, used = NAME.match(part), SPILLS.search(part), USED.search(part)
        if name is None or spills is None or used is None:
            raise BackendError(f"the assembler's report is not understood: {part[:200]}", code="backend.unusable")
        stack, stores, loads = map(int, spills.groups())
        registers, shared = int(used[1]), int(used[2] or 0)
        found.append(Resources(name[1], architecture, registers, shared, stack, stores + loads))
    return found
