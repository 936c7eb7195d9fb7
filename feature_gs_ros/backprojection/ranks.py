"""Many processes on one stream, as `torchrun` starts them: each takes a shard of the views, and the first adds up.

Every rank writes its own field beside the output, on a folder that all ranks share, so that a run that was ended goes
on from what each had done. torch.distributed is the meeting point: it names the rank that didn't come.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.backprojection.shards import Shard, check_no_view_twice, merge_fields
from feature_gs_ros.core.errors import DistributedError

Launcher = Literal["none", "torchrun"]
MEETING = timedelta(hours=12)  # the slowest rank may be behind the first by this
_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # as torchrun sets them


@dataclass(frozen=True)
class Ranks:
    """Which process this is, of how many; one of one where nobody launched several."""

    rank: int = 0
    size: int = 1

    @property
    def shard(self) -> Shard:
        """The part of the views that this process takes."""
        return Shard(self.rank + 1, self.size)

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def file(self, out: Path, rank: int | None = None) -> Path:
        """Where a rank's own field is kept until all are added up; the output itself where there is one process."""
        number = self.rank if rank is None else rank
        return out if self.size == 1 else out.with_name(f"{out.name}.rank{number + 1}of{self.size}")

    def meet(self, what: str) -> None:
        """Wait for all ranks.

        Raises:
            DistributedError: one of them ended; the message names it.
        """
        if self.size == 1:
            return
        try:
            dist.monitored_barrier(timeout=MEETING, wait_all_ranks=True)
        except RuntimeError as error:
            raise DistributedError(
                f"rank {self.rank} of {self.size} timed out waiting for others {what}: {str(error).splitlines()[0]}; "
                "start the run again with --resume to continue from what each rank saved",
                code="distributed.unreachable",
            ) from error

    def total(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Counts of the same kind, added up over all ranks.

        Raises:
            DistributedError: one of them ended.
        """
        if self.size == 1:
            return counts
        self.meet("to add up counts")
        total = torch.from_numpy(counts.astype(np.int64))
        try:
            dist.all_reduce(total)
        except RuntimeError as error:
            raise DistributedError(
                f"rank {self.rank} of {self.size} lost the others: {str(error).splitlines()[0]}; start the run again",
                code="distributed.unreachable",
            ) from error
        return total.numpy()

    def add_up(self, out: Path) -> FeatureField:
        """The field of all ranks' views; their files stay until `clear`."""
        files = [self.file(out, rank) for rank in range(self.size)]
        fields = [FeatureField.load(file) for file in files if file.is_file()]  # a rank may have had nothing to do
        check_no_view_twice(fields, [str(file) for file in files if file.is_file()])
        return merge_fields(fields)

    def clear(self, out: Path) -> None:
        """Remove this rank's own file, when the output is written."""
        if self.size > 1:
            self.file(out).unlink(missing_ok=True)


@contextmanager
def joined(launcher: Launcher) -> Iterator[Ranks]:
    """Meet the other processes of a run for the time of the block.

    Raises:
        DistributedError: torchrun didn't start this process, or the others can't be reached.
    """
    if launcher == "none":
        yield Ranks()
        return
    missing = [name for name in _VARIABLES if name not in os.environ]
    if missing:
        raise DistributedError(
            f"--launcher torchrun, but {', '.join(missing)} is not set: start it by torchrun --nproc-per-node N "
            "--no-python feature-gs backproject … --launcher torchrun",
            code="distributed.environment",
        )
    try:
        # The accumulators are added up through files: only the meeting needs a backend, and gloo works anywhere.
        dist.init_process_group("gloo", timeout=MEETING)
    except (RuntimeError, ValueError) as error:
        raise DistributedError(
            f"the other ranks can't be reached: {str(error).splitlines()[0]}", code="distributed.unreachable"
        ) from error
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()
