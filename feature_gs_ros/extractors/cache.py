"""CachedExtractor: an extractor whose grids are kept on disk: a second run over a stream costs no network pass."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.errors import ExtractorError, GridError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.extractors.base import Extractor, ExtractorIdentity, ScoringRule
from feature_gs_ros.io.atomic import atomic_path

DEFAULT_GIGABYTES = 20.0
_LEFT = 0.9  # of the limit, after the oldest grids went
_FORMAT = "1"  # part of the key: another layout of the files finds none of the old ones
_RECTANGLE = ("left", "top", "right", "bottom")
_VALUES, _INTERPOLATION = "values", "interpolation"
_log = logging.getLogger(__name__)


class CachedExtractor:
    """An extractor behind a folder of grids: ``<folder>/<two digits>/<key>.safetensors``; the longest unused go first.

    A key is the SHA-256 of the extractor's identity (name, weights, preprocessing) and of the image's size and pixels:
    a grid is found again whatever the frame is called, and never for another extractor. Several processes may share
    a folder. One that can't be written any more, a full disk say, is read on: a run needs its grids, not the cache.
    """

    def __init__(self, extractor: Extractor, folder: str | Path, gigabytes: float = DEFAULT_GIGABYTES) -> None:
        """
        Args:
            extractor: with weights; others cost less than reading a file, or answer by the frame's name.
            folder: made if it isn't there.
            gigabytes: limit of all files in the folder together, 1e9 bytes.

        Raises:
            ExtractorError: the extractor has no weights, the limit isn't positive, or the folder can't be made.
        """
        if not extractor.identity.weights:
            raise ExtractorError(
                f"the extractor '{extractor.identity.name}' has no network, so a cache gains nothing",
                code="extractor.unsupported",
            )
        if not gigabytes > 0:
            raise ExtractorError(
                f"a cache of {gigabytes} GB is too small; give a positive size", code="extractor.value"
            )
        self._extractor = extractor
        self._folder = Path(folder)
        self._limit = int(gigabytes * 1e9)
        self._key_of_extractor = _identity_bytes(extractor.identity)
        self.hits = 0
        self.misses = 0
        self._writing = True
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ExtractorError(
                f"can't make the cache '{folder}': {error.strerror}", code="extractor.unwritable"
            ) from error
        self._size = sum(size for _, size, _ in self._files())

    @property
    def wrapped(self) -> Extractor:
        return self._extractor

    @property
    def identity(self) -> ExtractorIdentity:
        return self._extractor.identity

    @property
    def dimension(self) -> int:
        return self._extractor.dimension

    @property
    def text_rule(self) -> ScoringRule:
        return self._extractor.text_rule

    @property
    def example_rule(self) -> ScoringRule:
        return self._extractor.example_rule

    def extract(self, image: Image, name: str = "") -> FeatureGrid:
        """The extractor's grid, from disk if it was made before; a damaged file is made anew.

        Raises:
            ExtractorError: the extractor's own.
        """
        path = self._path(image)
        grid = _read(path, self.dimension)
        if grid is not None:
            self.hits += 1
            with contextlib.suppress(OSError):  # another process may have removed it; the grid is read
                os.utime(path)
            return grid
        self.misses += 1
        grid = self._extractor.extract(image, name)
        self._write(path, grid)
        return grid

    def embed(self, prompts: Sequence[str]) -> Tensor:
        return self._extractor.embed(prompts)

    def prepare(self, features: Tensor) -> Tensor:
        return self._extractor.prepare(features)

    def scores(self, features: Tensor, embeddings: Tensor, prepared: Tensor | None = None) -> Tensor:
        return self._extractor.scores(features, embeddings, prepared)

    def similarities(self, features: Tensor, examples: Tensor) -> Tensor:
        return self._extractor.similarities(features, examples)

    def _path(self, image: Image) -> Path:
        digest = hashlib.sha256(self._key_of_extractor)
        digest.update(f"{image.shape}{image.dtype}".encode())
        digest.update(np.ascontiguousarray(image).tobytes())
        key = digest.hexdigest()
        return self._folder / key[:2] / f"{key}.safetensors"

    def _write(self, path: Path, grid: FeatureGrid) -> None:
        values = grid.values.detach().cpu().contiguous()
        # repr gives a float back as it was.
        metadata = {side: repr(getattr(grid, side)) for side in _RECTANGLE} | {_INTERPOLATION: grid.interpolation}
        if not self._writing or values.nbytes > self._limit:
            return
        try:
            with atomic_path(path) as part:
                save_file({_VALUES: values}, part, metadata)
                self._size += part.stat().st_size  # of `path` another process may have disposed by then
            if self._size > self._limit:
                self._shrink()
        except OSError as error:
            self._writing = False
            reason = error.strerror or error
            _log.warning("can't write to the cache '%s': %s; going on without keeping grids", self._folder, reason)

    def _shrink(self) -> None:
        """Remove the least recently used grids; counts anew what others may have written meanwhile."""
        files = sorted(self._files())
        self._size = sum(size for _, size, _ in files)
        for _, size, path in files:
            if self._size <= self._limit * _LEFT:
                break
            path.unlink(missing_ok=True)
            self._size -= size

    def _files(self) -> list[tuple[float, int, Path]]:
        """Last use, size and path of each grid in the folder."""
        found = []
        for path in self._folder.glob("??/*.safetensors"):
            with contextlib.suppress(FileNotFoundError):  # removed by another process
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        return found


def _identity_bytes(identity: ExtractorIdentity) -> bytes:
    fields = [_FORMAT, identity.name, identity.weights, dict(identity.preprocessing)]
    return json.dumps(fields, sort_keys=True).encode()


def _read(path: Path, dimension: int) -> FeatureGrid | None:
    """The grid in a file, None where there is no such file or it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            sides = {side: float(metadata[side]) for side in _RECTANGLE}
            values: Tensor = file.get_tensor(_VALUES)
        interpolation = metadata[_INTERPOLATION]
        if interpolation not in ("bilinear", "nearest") or values.shape[-1] != dimension:
            return None
        return FeatureGrid(values, **sides, interpolation=interpolation)
    except (OSError, SafetensorError, GridError, KeyError, ValueError):
        return None
