"""A recording's shards on a Dask cluster, added up to one field.

    python examples/dask_shards.py MAP STREAM ALIGNMENT FIELD [SCHEDULER]

Without the address of a scheduler a small cluster is started here. Map, stream and the field's folder must be seen by
all workers. ``pip install distributed``.
"""

import subprocess
import sys
from pathlib import Path

SHARDS = 4
COLORS = ["--extractor", "color"]  # another extractor's options, as for feature-gs backproject


def back_project_shard(number: int, words: list[str], folder: str) -> str:
    """One task: a shard's field. A task that is run again goes on from its checkpoint."""
    part = f"{folder}/{number}.field"
    command = [sys.executable, "-m", "feature_gs_ros.cli", "backproject", *words, "--shard", f"{number}/{SHARDS}"]
    subprocess.run([*command, "--out", part, "--resume", "--checkpoint", "100"], check=True)
    return part


def main() -> None:
    from distributed import Client

    map_file, stream, alignment, field, *scheduler = sys.argv[1:]
    folder = Path(f"{field}.parts")
    folder.mkdir(parents=True, exist_ok=True)
    words = [map_file, stream, "--alignment", alignment, *COLORS]
    local = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with Client(scheduler[0]) if scheduler else Client(**local) as client:
        tasks = client.map(back_project_shard, range(1, SHARDS + 1), words=words, folder=str(folder), retries=2)
        parts = client.gather(tasks)
    subprocess.run([sys.executable, "-m", "feature_gs_ros.cli", "merge", *parts, "--out", field], check=True)


if __name__ == "__main__":
    main()
