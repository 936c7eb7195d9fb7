"""Masks of one file per object: ``<frame name>/<object>.png`` or ``<object>/<frame name>.png``, in a folder of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.errors import EvaluationError, ImageError
from feature_gs_ros.io.images import decode_grey, read_image
from feature_gs_ros.io.mask_shapes import MAX_MASKS, check_mask_size, mask_numbers
from feature_gs_ros.io.streams.frame_names import listed_names

BACKGROUND = "background"


class ObjectMasks:
    """A folder of folders of PNGs: what isn't black is the object. Which level is the frames' is told by their names.

    Labels are the objects' in alphabetical order from 1 (255 left out). Where masks overlap the smaller is on top.

    Raises:
        EvaluationError: there are none.
    """

    kind = "masks of one file per object"

    def __init__(
        self,
        folder: str | Path,
        instances: bool = False,
        labels: Mapping[int, str] | None = None,
        frames: Sequence[str] = (),
    ) -> None:
        """
        Args:
            instances: number each image's masks from 1, instead of labels by the objects' names.
            labels: names by value, where they are not to be numbered; objects not among them count as background.
            frames: names of the frames that the masks belong to.
        """
        self.folder = Path(folder)
        self._instances, self._given = instances, labels
        self._files = {
            inner.name: sorted(path.stem for path in inner.glob("*.png"))
            for inner in sorted(self.folder.iterdir())
            if inner.is_dir()
        }
        self._files = {name: stems for name, stems in self._files.items() if stems}
        if not self._files:
            raise EvaluationError(f"'{folder}' holds no folders of masks", code="evaluation.empty")
        stems = {stem for stems in self._files.values() for stem in stems}
        known = set(frames)
        self._by_frame = len(known & set(self._files)) > len(known & stems) if known else len(self._files) >= len(stems)

    def names(self) -> list[str]:
        """Names of the frames that have masks, sorted."""
        return sorted(self._files) if self._by_frame else sorted({s for stems in self._files.values() for s in stems})

    @cached_property
    def labels(self) -> dict[int, str]:
        """Names of the objects by value, with 0 for the background."""
        if self._given is not None:
            return dict(self._given)
        names = {stem for stems in self._files.values() for stem in stems} if self._by_frame else set(self._files)
        return {0: BACKGROUND, **dict(zip(mask_numbers(), sorted(names - {BACKGROUND}), strict=False))}

    def load(self, name: str, camera: Camera | None = None) -> NDArray[np.uint16]:
        """Labels [H, W] of a frame.

        Raises:
            EvaluationError: no such frame, a damaged mask, or one of another size than the camera's or the others.
        """
        files = self._of_frame(name)
        if not files:
            raise EvaluationError(
                f"no masks of '{name}' in '{self.folder}'; there are {listed_names(self.names())}",
                code="evaluation.missing",
            )
        if len(files) > MAX_MASKS:
            raise EvaluationError(
                f"{len(files)} masks of '{name}', at most {MAX_MASKS} are read", code="evaluation.range"
            )
        by_name = {label: value for value, label in self.labels.items()}
        areas = {key: int(np.count_nonzero(self._read(path, camera))) for key, path in files.items()}
        labels: NDArray[np.uint16] | None = None
        numbers = dict(zip(files, mask_numbers(), strict=False))
        for key in sorted(files, key=lambda key: -areas[key]):
            mask = self._read(files[key], camera)
            labels = np.zeros(mask.shape, np.uint16) if labels is None else labels
            if mask.shape != labels.shape:
                raise EvaluationError(f"masks of '{name}' in '{self.folder}' differ in size", code="evaluation.size")
            labels[mask] = numbers[key] if self._instances else by_name.get(key, 0)
        assert labels is not None
        return labels

    def _of_frame(self, name: str) -> dict[str, Path]:
        """The files of a frame by object."""
        if self._by_frame:
            return {stem: self.folder / name / f"{stem}.png" for stem in self._files.get(name, ())}
        return {key: self.folder / key / f"{name}.png" for key, stems in self._files.items() if name in stems}

    def _read(self, path: Path, camera: Camera | None) -> NDArray[np.bool_]:
        try:
            mask: NDArray[np.bool_] = decode_grey(read_image(path), str(path)) > 0
        except ImageError as error:
            raise EvaluationError(f"the mask can't be used: {error}", code="evaluation.mask") from error
        check_mask_size((mask.shape[0], mask.shape[1]), camera, f"mask '{path}'")
        return mask


def has_object_folders(path: Path) -> bool:
    """Whether a folder holds no masks itself, but folders of PNGs."""
    if not path.is_dir() or any(path.glob("*.png")) or any(path.glob("*.json")):
        return False
    return any(inner.is_dir() and any(inner.glob("*.png")) for inner in path.iterdir())
