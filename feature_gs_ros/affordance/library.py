"""Source library: annotated images of one teacher, kept as patches; add, remove, merge, save, load."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from feature_gs_ros.affordance.patches import IGNORE, TURNS, Labels, make_patches
from feature_gs_ros.cameras import Image
from feature_gs_ros.errors import AffordanceError, ImageError
from feature_gs_ros.extractors.base import Extractor, ExtractorIdentity
from feature_gs_ros.field import describe_teacher
from feature_gs_ros.io.atomic import atomic_path
from feature_gs_ros.io.images import decode_compressed

FORMAT = "feature_gs_ros affordances 1"
SUFFIX = ".safetensors"
FLOOR = 0.8  # of the teacher's threshold for examples: that one decides alone, here negatives compete
LONGEST_NAME = 100  # characters
MAX_AFFORDANCES = 254  # of one source: labels have 8 bits, 0 and 255 are taken


@dataclass(frozen=True, eq=False)
class Source:
    """An image with one or more affordances marked, and its patches. Build one by `make_source`."""

    name: str
    affordances: tuple[str, ...]
    object: str  # the word for the thing that is marked, empty if none was given
    image: Tensor  # PNG as bytes [B] uint8, for pictures
    labels: Tensor  # PNG as bytes [B] uint8: 0 unmarked, k affordances[k − 1], 255 ignored
    features: Tensor  # [M, D] float16
    shares: Tensor  # [M, A] float16, the share of each patch that each affordance covers

    def decoded_image(self) -> Image:
        """[H, W, 3] RGB."""
        return decode_compressed(self.image.numpy().tobytes(), f"the image of the source '{self.name}'")

    def decoded_labels(self) -> NDArray[np.uint8]:
        """[H, W]."""
        labels = decode_compressed(self.labels.numpy().tobytes(), f"the labels of the source '{self.name}'")
        return np.ascontiguousarray(labels[:, :, 0])


def make_source(
    image: Image,
    labels: Labels,
    affordances: Mapping[int, str],
    extractor: Extractor,
    *,
    name: str,
    object_word: str = "",
    frame: str = "",
    turns: int | None = None,
) -> Source:
    """A source from an image and its annotation.

    Args:
        image: [H, W, 3] uint8 RGB, rectified.
        labels: [H, W], a value of ``affordances`` where one is marked, 255 where a pixel counts for nothing; any
            other value is unmarked. A bool mask has the value 1.
        affordances: names of the label values; 0 is none, whatever it is called.
        extractor: the teacher that also made the fields to transfer to.
        name: unique in a library, no path.
        object_word: the thing that is marked, e.g. "coffee mug"; a text query may limit the transfer to it.
        frame: as for `make_patches`.
        turns: as for `make_patches`; by default `TURNS`, or 1 where the teacher reads files instead of the image.

    Raises:
        AffordanceError: image and labels differ in size, nothing is marked, a name can't be used, or the features
            are not finite.
        ExtractorError: the teacher can't take the image.
    """
    check_name(name, "source")
    if labels.ndim != 2 or labels.shape != image.shape[:2]:
        raise AffordanceError(
            f"the mask of '{name}' is {_size(labels)}, its image {_size(image)}: mark the image at its own size"
        )
    names = {value: check_name(word, "affordance") for value, word in affordances.items() if value not in (0, IGNORE)}
    marked = [value for value in sorted(names) if bool((labels == value).any())]
    if not marked:
        known = ", ".join(f"{value} ({word})" for value, word in sorted(names.items())) or "none"
        raise AffordanceError(f"the mask of '{name}' marks nothing: no pixel has a value that is named; named: {known}")
    if len(marked) > MAX_AFFORDANCES:
        raise AffordanceError(f"'{name}' marks {len(marked)} affordances, at most {MAX_AFFORDANCES} are taken")
    compact = np.where(labels == IGNORE, IGNORE, 0).astype(np.uint8)
    for index, value in enumerate(marked):
        compact[labels == value] = index + 1
    if turns is None:
        turns = 1 if getattr(extractor, "reads_files", False) else TURNS
    patches = make_patches(image, compact, len(marked), extractor, frame, turns)
    if not bool((patches.shares.sum(dim=0) > 0).all()):
        raise AffordanceError(f"what '{name}' marks is smaller than a patch, or ignored; mark more of it")
    return Source(
        name,
        tuple(names[value] for value in marked),
        object_word.strip(),
        _png(np.ascontiguousarray(image[:, :, ::-1])),
        _png(compact),
        patches.features.to(torch.float16),
        patches.shares.to(torch.float16),
    )


def box_labels(height: int, width: int, box: Sequence[float]) -> NDArray[np.uint8]:
    """Labels [H, W] that are 1 inside a box (left, top, right, bottom) in pixels from the image's corner.

    Raises:
        AffordanceError: the box is not finite, empty, or outside the image.
    """
    if len(box) != 4 or not np.isfinite(box).all():
        raise AffordanceError(f"box {tuple(box)} is not four finite numbers left, top, right, bottom")
    left, right = (int(np.clip(round(value), 0, width)) for value in (box[0], box[2]))
    top, bottom = (int(np.clip(round(value), 0, height)) for value in (box[1], box[3]))
    if right <= left or bottom <= top:
        raise AffordanceError(f"box {tuple(box)} holds no pixel of the image of {width}×{height}")
    labels = np.zeros((height, width), np.uint8)
    labels[top:bottom, left:right] = 1
    return labels


@dataclass(frozen=True, eq=False)
class Library:
    """Sources of one teacher. Every change is a new library; `save` makes it last."""

    teacher: ExtractorIdentity
    floor: float  # cosine under which the teacher calls two features not alike: transfer abstains
    sources: tuple[Source, ...] = ()

    @staticmethod
    def of(extractor: Extractor) -> Library:
        """An empty library of this teacher."""
        return Library(extractor.identity, FLOOR * extractor.example_rule.threshold)

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def affordances(self) -> tuple[str, ...]:
        """Names over all sources, in order of first appearance."""
        return tuple(dict.fromkeys(word for source in self.sources for word in source.affordances))

    def add(self, source: Source, replace_existing: bool = False) -> Library:
        """With one more source.

        Raises:
            AffordanceError: the name is taken, or the features have another dimension.
        """
        others = tuple(other for other in self.sources if other.name != source.name)
        if len(others) < len(self) and not replace_existing:
            raise AffordanceError(f"the library has a source '{source.name}' already; remove it or choose another name")
        if others and others[0].features.shape[1] != source.features.shape[1]:
            raise AffordanceError(
                f"'{source.name}' has features of {source.features.shape[1]} dimensions, the library "
                f"{others[0].features.shape[1]}: another teacher"
            )
        return replace(self, sources=(*others, source))

    def remove(self, name: str) -> Library:
        """Without a source.

        Raises:
            AffordanceError: there is none of this name.
        """
        others = tuple(source for source in self.sources if source.name != name)
        if len(others) == len(self):
            known = ", ".join(source.name for source in self.sources) or "none"
            raise AffordanceError(f"the library has no source '{name}'; it has {known}")
        return replace(self, sources=others)

    def merge(self, other: Library) -> Library:
        """With the sources of another library.

        Raises:
            AffordanceError: another teacher, or a name is in both.
        """
        self.check_teacher(other.teacher)
        merged = self
        for source in other.sources:
            merged = merged.add(source)
        return merged

    def check_teacher(self, identity: ExtractorIdentity) -> None:
        """Raise an AffordanceError unless the library's features are of this teacher."""
        if identity != self.teacher:
            raise AffordanceError(
                f"the library is of the teacher {describe_teacher(self.teacher)}, not of {describe_teacher(identity)}; "
                "add the sources anew with the field's teacher"
            )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file; into an existing folder, a file a source. Each file appears whole or not at all.

        Raises:
            AffordanceError: it can't be written.
        """
        path = Path(path)
        try:
            if not path.is_dir():
                _save_file(self, path)
                return
            for source in self.sources:
                _save_file(replace(self, sources=(source,)), path / f"{source.name}{SUFFIX}")
            kept = {f"{source.name}{SUFFIX}" for source in self.sources}
            for file in path.glob(f"*{SUFFIX}"):
                if file.name not in kept:
                    file.unlink()
        except OSError as error:
            raise AffordanceError(f"can't write the library '{path}': {error.strerror or error}") from error

    @staticmethod
    def load(path: str | Path) -> Library:
        """Read a library: a file, or all files of a folder.

        Raises:
            AffordanceError: missing, empty, damaged, or files of different teachers.
        """
        path = Path(path)
        if not path.exists():
            raise AffordanceError(
                f"there is no library '{path}'; make one with: feature-gs affordance add IMAGE MASK --library {path}"
            )
        files = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
        if not files:
            raise AffordanceError(f"the folder '{path}' holds no library; add a source first")
        library, *others = [_load_file(file) for file in files]
        for other in others:
            library = library.merge(other)
        return library


def check_name(name: str, what: str) -> str:
    """A name that may stand in a file name.

    Raises:
        AffordanceError: empty, too long, a path or part of one, or not printable.
    """
    if not name.strip() or len(name) > LONGEST_NAME:
        raise AffordanceError(f"the {what}'s name has {len(name.strip())} characters, choose 1 to {LONGEST_NAME}")
    if any(part in name for part in "/\\:") or name.startswith(".") or not name.isprintable():
        raise AffordanceError(f"the {what}'s name {name!r} can't be part of a file name; use letters, digits, _ and -")
    return name


def _size(array: NDArray[Any]) -> str:
    return f"{array.shape[1]}×{array.shape[0]}" if array.ndim >= 2 else str(array.shape)


def _png(pixels: NDArray[np.uint8]) -> Tensor:
    _, data = cv2.imencode(".png", pixels)
    return torch.from_numpy(data.ravel().copy())


_TENSORS = ("image", "labels", "features", "shares")


def _save_file(library: Library, path: Path) -> None:
    content = {
        "teacher": {
            "name": library.teacher.name,
            "weights": library.teacher.weights,
            "preprocessing": dict(library.teacher.preprocessing),
        },
        "floor": library.floor,
        "sources": [
            {"name": source.name, "affordances": source.affordances, "object": source.object}
            for source in library.sources
        ],
    }
    tensors = {
        f"{index}.{key}": getattr(source, key).contiguous()
        for index, source in enumerate(library.sources)
        for key in _TENSORS
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"format": FORMAT, "content": json.dumps(content)})


def _load_file(path: Path) -> Library:
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise AffordanceError(f"'{path}' holds format '{metadata.get('format')}', expected '{FORMAT}'")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise AffordanceError(f"'{path}' is no library: {error}") from error
    try:
        content = json.loads(metadata["content"])
        library = Library(ExtractorIdentity(**content["teacher"]), float(content["floor"]))
        for index, entry in enumerate(content["sources"]):
            library = library.add(_source_of(entry, *(tensors[f"{index}.{key}"] for key in _TENSORS)))
    except (KeyError, TypeError, ValueError, ImageError) as error:
        raise AffordanceError(f"'{path}' is damaged: {error!r}; restore it, or add its sources anew") from error
    return library


def _source_of(entry: Mapping[str, Any], image: Tensor, labels: Tensor, features: Tensor, shares: Tensor) -> Source:
    affordances = tuple(check_name(str(word), "affordance") for word in entry["affordances"])
    if features.dim() != 2 or shares.shape != (len(features), len(affordances)) or not len(features):
        raise ValueError(f"features {tuple(features.shape)} and shares {tuple(shares.shape)} don't fit together")
    if not bool(torch.isfinite(features).all() & torch.isfinite(shares).all()):
        raise ValueError("features or shares are not finite")
    return Source(
        check_name(str(entry["name"]), "source"), affordances, str(entry["object"]), image, labels, features, shares
    )
