"""An extractor package of the tests' own, ``held``: color's, held up or failing where a test says so.

Nodes find it as they find anybody's, by its entry point; `ros.gate.Gate` installs it and says where.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.extractor_identity import ExtractorIdentity
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.extractors.color import ColorExtractor


class Held(ColorExtractor):
    """Waits before it extracts or embeds, or says who it is, while the gate is shut there; or runs out of memory."""

    def __init__(self, gate: str, cell: int = 4) -> None:
        """
        Args:
            gate: folder of the files ``shut`` and ``broken``, each a place and how often it is passed before, or fails.
            cell: as color's.
        """
        self._folder = Path(gate)
        super().__init__(cell=cell)

    @property
    def identity(self) -> ExtractorIdentity:
        """As color's."""
        self._pass("identity")
        return self._identity

    @identity.setter
    def identity(self, identity: ExtractorIdentity) -> None:
        self._identity = identity

    def extract(self, image: Image, name: str = "") -> FeatureGrid:
        """As color's."""
        self._pass("extract")
        return super().extract(image, name)

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """As color's."""
        self._pass("embed")
        return super().embed(prompts)

    def _pass(self, place: str) -> None:
        if self._counted("broken", place) == "yes":
            raise MemoryError("no room")
        while self._counted("shut", place) == "no more":
            (self._folder / "reached").touch()
            time.sleep(0.01)

    def _counted(self, file: str, place: str) -> str:
        """What the file says of this place, which it counts: "yes", "no more", or nothing."""
        path = self._folder / file
        try:
            at, left = json.loads(path.read_text())
        except (FileNotFoundError, json.JSONDecodeError):  # opened, or about to be shut
            return ""
        if at != place:
            return ""
        if left == 0:
            return "no more"
        path.write_text(json.dumps([at, left - 1]))
        return "yes"
