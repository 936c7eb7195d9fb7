"""The extractor `precomputed`: feature maps from files, one a frame, made by any model on any machine."""

from __future__ import annotations

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.errors import ExtractorError, UnknownPromptError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.core.memory import check_budget
from feature_gs_ros.core.text import shown
from feature_gs_ros.extractors.base import Extractor, ExtractorIdentity, ScoringRule
from feature_gs_ros.extractors.scoring import cosine
from feature_gs_ros.extractors.words import WordList
from feature_gs_ros.io.files import open_regular
from feature_gs_ros.io.streams.frame_names import listed_names
from feature_gs_ros.io.tensors import load_tensors

SUFFIXES = (".npy", ".npz", ".safetensors")
MAX_BYTES = 1 << 32  # of one array
# What numpy's header parser, which evaluates Python literals, and the zip reader raise at bytes that make no sense.
_DAMAGED = (
    ValueError, TypeError, EOFError, SyntaxError, LookupError, AttributeError, OverflowError, RecursionError,
    MemoryError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error,
    tokenize.TokenError,
)  # fmt: skip
FEATURES, RECTANGLE = "features", "rectangle"  # names of the arrays in .npz and .safetensors


class PrecomputedExtractor(Extractor):
    """Reads ``<folder>/<frame name>.npy|.npz|.safetensors``: values [rows, columns, D], floating, channels last.

    ``.npz`` and ``.safetensors`` name the array ``features`` (or hold only one) and may add ``rectangle`` [4]: the
    left, top, right and bottom of the cells in image widths and heights, see `FeatureGrid`.
    """

    reads_files = True  # of the image as it was taken, not as it is rectified
    scale_invariant = True
    plain_cosines = True
    text_rule = ScoringRule(threshold=0.5)
    example_rule = ScoringRule(threshold=0.7)

    def __init__(
        self,
        folder: str | Path | None = None,
        embeddings: str | Path | None = None,
        teacher: str = "",
        dimension: int | None = None,
    ) -> None:
        """
        Args:
            folder: of the feature maps; only `extract` needs it.
            embeddings: .npz or .safetensors file with one vector [D] a prompt, named by the prompt.
            extractor: whose features these are; part of the identity.
            dimension: D, where there is no folder to tell.

        Raises:
            ExtractorError: the folder holds no feature maps, or a file can't be used, or nothing tells D.
        """
        self._folder = folder
        self._files = {} if folder is None else _feature_files(Path(folder))
        if self._files:
            dimension = _grid(next(iter(self._files.values()))).dimension
        if dimension is None or dimension < 1:
            raise ExtractorError(
                "the extractor 'precomputed' needs folder=DIR with the feature maps, or their dimension=D",
                code="extractor.missing",
            )
        self.dimension = dimension
        self._prompts, self._embeddings = _read_embeddings(embeddings, self.dimension)
        self.identity = ExtractorIdentity(
            name="precomputed", preprocessing={"teacher": teacher, "dimension": self.dimension}
        )

    def extract(self, image: Image, name: str = "") -> FeatureGrid:  # noqa: ARG002
        """The feature map of frame ``name``; the image isn't looked at.

        Raises:
            ExtractorError: there is none, or it is damaged, or its dimension differs from the others'.
        """
        if name not in self._files:
            raise ExtractorError(
                f"no feature map for frame '{name}' in '{self._folder}'; there are {listed_names(list(self._files))}",
                code="extractor.missing",
            )
        grid = _grid(self._files[name])
        if grid.dimension != self.dimension:
            raise ExtractorError(
                f"'{self._files[name]}' has {grid.dimension} channels, the other feature maps {self.dimension}",
                code="extractor.shape",
            )
        return grid

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """[P, D] from the file of embeddings.

        Raises:
            UnknownPromptError: there is no such file, or the prompt isn't in it.
        """
        if self._prompts is None:
            raise UnknownPromptError(
                f"no embeddings were given for '{', '.join(prompts)}'; give a file with a vector a prompt "
                "(--option embeddings=FILE)"
            )
        return torch.stack([self._embeddings[self._prompts.classes(prompt)[0]] for prompt in prompts])

    def prepare(self, features: Tensor) -> Tensor:
        """Norms, [M]."""
        norms: Tensor = torch.linalg.vector_norm(features.float(), dim=1)
        return norms

    def scores(self, features: Tensor, embeddings: Tensor, prepared: Tensor | None = None) -> Tensor:
        """Cosine, [M, P]."""
        return cosine(features.float(), embeddings.float(), prepared)

    def similarities(self, features: Tensor, examples: Tensor) -> Tensor:
        """Cosine, [M, P]."""
        return cosine(features.float(), examples.float())


def _feature_files(folder: Path) -> dict[str, Path]:
    """Feature maps by frame name."""
    if not folder.is_dir():
        raise ExtractorError(f"'{folder}' is not a folder of feature maps", code="extractor.unreadable")
    files = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES}
    if not files:
        raise ExtractorError(
            f"'{folder}' holds no feature maps; expected <frame name>{', '.join(SUFFIXES)}", code="extractor.empty"
        )
    return files


def _grid(path: Path) -> FeatureGrid:
    arrays = _read_arrays(path)
    rectangle = arrays.pop(RECTANGLE, None)
    values = arrays[FEATURES] if FEATURES in arrays else next(iter(arrays.values())) if len(arrays) == 1 else None
    if values is None:
        raise ExtractorError(
            f"'{path}' holds the arrays {listed_names(list(arrays))}, expected '{FEATURES}'", code="extractor.format"
        )
    if values.dim() != 3 or 0 in values.shape:
        raise ExtractorError(
            f"'{path}' has shape {tuple(values.shape)}, expected [rows, columns, D]", code="extractor.shape"
        )
    if not values.dtype.is_floating_point:
        raise ExtractorError(f"'{path}' holds {values.dtype}, expected a floating type", code="extractor.format")
    if values.dtype == torch.float64:
        values = values.float()
    if not bool(torch.isfinite(values).all()):
        raise ExtractorError(
            f"'{path}' holds NaN or Inf; mask these pixels or make the map again", code="extractor.not-finite"
        )
    if rectangle is None:
        return FeatureGrid(values)
    if rectangle.shape != (4,) or not bool(torch.isfinite(rectangle).all()):
        raise ExtractorError(
            f"'{RECTANGLE}' in '{path}' needs four finite numbers: left, top, right, bottom", code="extractor.missing"
        )
    left, top, right, bottom = (float(value) for value in rectangle)
    return FeatureGrid(values, left, top, right, bottom)


def _read_embeddings(path: str | Path | None, dimension: int) -> tuple[WordList | None, Tensor]:
    if path is None:
        return None, torch.zeros(0, dimension)
    arrays = _read_arrays(Path(path))
    for prompt, vector in arrays.items():
        if vector.shape != (dimension,) or not bool(torch.isfinite(vector).all()):
            raise ExtractorError(
                f"'{prompt}' in '{path}' has shape {tuple(vector.shape)}, expected ({dimension},), finite",
                code="extractor.shape",
            )
    return WordList([[prompt] for prompt in arrays], "precomputed"), torch.stack(list(arrays.values())).float()


def _read_arrays(path: Path) -> dict[str, Tensor]:
    """All arrays of a file by name; one without a name is called features.

    Raises:
        ExtractorError: the file is missing, damaged, empty, or holds objects.
    """
    try:
        if path.suffix == ".safetensors":
            arrays, _ = load_tensors(path)
        elif path.suffix == ".npz":
            arrays = _read_npz(path)
        else:
            with open_regular(path) as file:
                arrays = {FEATURES: torch.from_numpy(_read_npy(file, path.stat().st_size))}
    except OSError as error:
        raise ExtractorError(f"can't read '{path}': {error.strerror or error}", code="extractor.unreadable") from error
    except (*_DAMAGED, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ExtractorError(f"'{path}' is damaged or no array file: {reason}", code="extractor.damaged") from error
    if not arrays:
        raise ExtractorError(f"'{path}' holds no arrays", code="extractor.empty")
    return arrays


def _read_npz(path: Path) -> dict[str, Tensor]:
    arrays = {}
    with open_regular(path) as opened, zipfile.ZipFile(opened) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > MAX_BYTES:
            raise ValueError(f"its arrays take more than {MAX_BYTES} bytes")
        check_budget(unpacked, None, f"'{path}', unpacked,", "save smaller maps, or as float16")
        for member in archive.infolist():
            with archive.open(member) as file:
                arrays[member.filename.removesuffix(".npy")] = torch.from_numpy(_read_npy(file, member.file_size))
    return arrays


def _read_npy(file: IO[bytes], size: int) -> NDArray[np.generic]:
    """An .npy stream of ``size`` bytes; the header is believed only as far as the bytes go."""
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise ValueError(f"format version {version} is unknown")
    shape, fortran, dtype = read_header(file)
    if dtype.kind not in "biuf":
        raise ValueError(f"it holds {dtype}, which is not read; save numbers")
    if not all(isinstance(side, int) and side >= 0 for side in shape):
        raise ValueError(f"its header names the shape {shown(shape)}")
    bytes_needed = math.prod(shape) * dtype.itemsize
    if bytes_needed > min(size, MAX_BYTES):
        raise ValueError(f"its header names {bytes_needed} bytes, there are {size}")
    data = file.read(bytes_needed)
    if len(data) < bytes_needed:
        raise ValueError(f"it ends after {len(data)} of {bytes_needed} bytes")
    array = np.frombuffer(bytearray(data), dtype=dtype).reshape(shape, order="F" if fortran else "C")
    return np.ascontiguousarray(array.astype(dtype.newbyteorder("="), copy=False))
