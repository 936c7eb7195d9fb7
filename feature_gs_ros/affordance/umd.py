"""Reader of the UMD part-affordance data set (Myers et al., 2015): tools with a pixel label for each affordance.

Layout: ``tools/<tool>_<nn>/<tool>_<nn>_<frame>_rgb.jpg`` beside ``…_label.mat``, whose
``gt_label`` [H, W] holds 0 to 7.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat, whosmat
from scipy.io.matlab import MatReadError

from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.errors import AffordanceError
from feature_gs_ros.io.images import load_image

UMD_AFFORDANCES = {1: "grasp", 2: "cut", 3: "scoop", 4: "contain", 5: "pound", 6: "support", 7: "wrap-grasp"}
VARIABLE = "gt_label"
IMAGE_ENDING, LABEL_ENDING = "_rgb.jpg", "_label.mat"
MAX_LABELS = 1 << 24  # pixels of a label file that are believed
MAX_BYTES = 1 << 26  # of a label file


@dataclass(frozen=True)
class UmdItem:
    """One annotated image of the data set."""

    name: str  # e.g. mug_01_00000001
    object: str  # e.g. mug
    image_path: Path
    label_path: Path

    def image(self) -> Image:
        """[H, W, 3].

        Raises:
            ImageError: missing or damaged.
        """
        return load_image(self.image_path)

    def labels(self) -> NDArray[np.uint8]:
        """[H, W], 0 or a key of `UMD_AFFORDANCES`.

        Raises:
            AffordanceError: missing or damaged.
        """
        return load_umd_labels(self.label_path)


def umd_items(folder: str | Path) -> Iterator[UmdItem]:
    """Annotated images below the data set's folder, in order of their names.

    Raises:
        AffordanceError: the folder is missing or holds none.
    """
    folder = Path(folder)
    paths = sorted(folder.rglob(f"*{LABEL_ENDING}")) if folder.is_dir() else []
    found = False
    for path in paths:
        name = path.name.removesuffix(LABEL_ENDING)
        image_path = path.with_name(name + IMAGE_ENDING)
        if image_path.is_file():
            found = True
            yield UmdItem(name, name.rsplit("_", 2)[0].replace("_", " "), image_path, path)
    if not found:
        raise AffordanceError(
            f"'{folder}' holds no UMD part affordances: expected tools/mug_01/mug_01_00000001{IMAGE_ENDING} "
            f"beside …{LABEL_ENDING}",
            code="affordance.format",
        )


def load_umd_labels(path: str | Path) -> NDArray[np.uint8]:
    """Labels [H, W] of a ``…_label.mat``.

    Raises:
        AffordanceError: missing, damaged, or without the labels.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise AffordanceError(
                f"'{path}' has {path.stat().st_size} bytes, a label file at most {MAX_BYTES}", code="affordance.range"
            )
        shapes = {name: shape for name, shape, _ in whosmat(str(path))}
        shape = shapes.get(VARIABLE, ())
        if len(shape) != 2 or not 0 < int(np.prod(shape, dtype=np.float64)) <= MAX_LABELS:
            raise AffordanceError(
                f"'{path}' holds {shapes or 'nothing'}, expected {VARIABLE} [H, W]", code="affordance.format"
            )
        labels = np.asarray(loadmat(str(path), variable_names=[VARIABLE])[VARIABLE])
    except OSError as error:
        raise AffordanceError(
            f"can't read the labels '{path}': {error.strerror or error}", code="affordance.unreadable"
        ) from error
    except (MatReadError, NotImplementedError, ValueError, TypeError, KeyError, IndexError, zlib.error) as error:
        raise AffordanceError(
            f"'{path}' is damaged, or no MATLAB file up to version 7: {error}", code="affordance.damaged"
        ) from error
    if labels.dtype.kind not in "uif" or not ((labels >= 0) & (labels <= max(UMD_AFFORDANCES))).all():
        raise AffordanceError(f"'{path}' holds labels other than 0 to {max(UMD_AFFORDANCES)}", code="affordance.label")
    return labels.astype(np.uint8)
