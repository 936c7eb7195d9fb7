"""Gate: a node at a moment that is hard to meet, by an extractor that waits or fails when a test wants it to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ros.harness import Starter, wait_until
from ros.processes import NodeProcess

PACKAGE = Path(__file__).with_name("held_extractor.py")


class Gate:
    """Holds up feature_map wherever it asks its extractor something, while the gate is shut there.

    Places are members of the extractor's contract: ``extract`` (each image), ``embed`` (each question in words),
    ``identity`` (each copy of the field, and each report).
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shut, self._broken, self._reached = folder / "shut", folder / "broken", folder / "reached"

    def active(self, start: Starter, **parameters: object) -> NodeProcess:
        """feature_map with the extractor ``held``, brought to active."""
        start.site = self._installed()
        return start.active(
            extractor="held", extractor_options=f"{{cell: 4, gate: {json.dumps(str(self._folder))}}}", **parameters
        )

    def shut(self, place: str, after: int = 0) -> None:
        """Hold up who comes to a place next, or after so many have passed."""
        self._reached.unlink(missing_ok=True)
        self._write(self._shut, place, after)

    def wait(self) -> None:
        """Until somebody is held up."""
        wait_until(self._reached.exists, 30, "somebody at the gate")

    def open(self) -> None:
        """Let everybody through."""
        self._shut.unlink(missing_ok=True)

    def fail(self, place: str, times: int) -> None:
        """Let who comes to a place run out of memory, so many times."""
        self._write(self._broken, place, times)

    @staticmethod
    def _write(path: Path, place: str, count: int) -> None:
        part = path.with_suffix(".part")
        part.write_text(json.dumps([place, count]))
        part.replace(path)

    def _installed(self) -> Path:
        """A folder for PYTHONPATH with the extractor as an installed package."""
        site = self._folder / "site"
        metadata = site / "held_extractor-1.0.dist-info"
        metadata.mkdir(parents=True, exist_ok=True)
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: held-extractor\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text("[feature_gs_ros.extractors]\nheld = held_extractor:Held\n")
        shutil.copy(PACKAGE, site)
        return site
