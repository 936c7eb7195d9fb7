"""Affordances on a page: a painted part joins a library in its folder, and parts like it are found on the map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.affordance import Library, Region, Transfer, find_regions, make_source, transfer
from feature_gs_ros.affordance.library import check_name
from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.errors import AffordanceError
from feature_gs_ros.extractors.base import Extractor
from feature_gs_ros.io.data_folder import DataFolder
from feature_gs_ros.io.locks import locked
from feature_gs_ros.page.limits import MAX_NAME_CHARACTERS, MAX_SOURCES
from feature_gs_ros.query.masks_3d import Answer, Segmenter, State

SUFFIX = ".safetensors"
LOCK_TIMEOUT = 10.0  # s to wait for another program that changes the library


@dataclass(frozen=True, eq=False)
class Parts:
    """What a transfer found."""

    transferred: Transfer
    regions: tuple[Region, ...]
    states: Mapping[str, State]  # by affordance
    message: str
    target: Answer | None = None  # what was searched alone

    @property
    def masks(self) -> tuple[Tensor, ...]:
        """[N] bool of each affordance."""
        return tuple(self.transferred.mask(word) for word in self.transferred.affordances)


def library_path(folder: DataFolder, name: str) -> Path:
    """The library's file, below the folder.

    Raises:
        AffordanceError: the name is too long, or of another kind of file.
        FieldError: the name leads out of the folder.
    """
    name = name.strip()
    if len(name) > MAX_NAME_CHARACTERS or not name.endswith(SUFFIX):
        raise AffordanceError(
            f"a library is one '{SUFFIX}' file; name it so, in up to {MAX_NAME_CHARACTERS} characters",
            code="affordance.format",
        )
    return folder(name)


def open_library(path: Path, extractor: Extractor) -> Library:
    """What the file holds; an empty library where there is no file yet.

    Raises:
        AffordanceError: the file is no library, damaged, or of another extractor.
    """
    if not path.exists():
        return Library.of(extractor)
    library = Library.load(path)
    library.check_extractor(extractor.identity)
    return library


def add_part(
    path: Path,
    extractor: Extractor,
    image: Image,
    mask: NDArray[np.bool_],
    *,
    affordance: str,
    object_word: str = "",
    frame: str = "",
) -> tuple[str, Library]:
    """Keep a painted part in a library's file; the source's name, and the library with it.

    Args:
        image: [H, W, 3], rectified.
        mask: [H, W], true on the part.
        frame: name of the stream's frame, for extractors that read files.

    Raises:
        AffordanceError: nothing is painted, a name can't be used, or the library is full or damaged.
    """
    affordance, object_word = check_name(affordance.strip(), "affordance"), object_word.strip()
    with locked(path, LOCK_TIMEOUT):
        library = open_library(path, extractor)
        if len(library) >= MAX_SOURCES:
            raise AffordanceError(
                f"the library has {MAX_SOURCES} sources, no more are taken; choose another file",
                code="affordance.range",
            )
        name = library.free_name(affordance, object_word)
        labels = mask.astype(np.uint8)
        source = make_source(
            image, labels, {1: affordance}, extractor, name=name, object_word=object_word, frame=frame
        )  # fmt: skip
        library = library.add(source)
        library.save(path)
    return name, library


def find_parts(segmenter: Segmenter, library: Library, on: str = "", among: Tensor | None = None) -> Parts:
    """Where on the map are parts like those that the library's images mark?

    Args:
        on: search only on what these words find; empty: the whole map. Where sources are of that object, they alone
            vote.
        among: [N] bool, the Gaussians that are still there; None: all.

    Raises:
        AffordanceError: the library is empty.
        UnknownPromptError: the extractor doesn't know a word of ``on``.
    """
    on = on.strip()
    target = segmenter.answers_of(segmenter.score([on]), among)[0] if on else None
    known = on.lower() in {source.object.lower() for source in library.sources}
    found = transfer(
        segmenter.gaussians,
        segmenter.field,
        library,
        among=among if target is None else target.mask,
        object_word=on if known else "",
        graph=lambda: segmenter.graph,
    )
    regions = tuple(find_regions(segmenter.gaussians, segmenter.field, found))
    message = found.message(segmenter.gaussians)
    states = {word: found.state(word, segmenter.gaussians) for word in found.affordances}
    if target is not None and target.state is not State.FOUND:  # the parts of what isn't there aren't either
        message, states = target.message, dict.fromkeys(found.affordances, target.state)
    return Parts(found, regions, states, message, target)
