"""What an edit does to the Gaussians: pure functions of an `EditedMap`, each with parameters that fit a record."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from feature_gs_ros.core.errors import EditError
from feature_gs_ros.core.gaussians import SH_C0, GaussianMap
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.core.placing import transformed
from feature_gs_ros.editing.selection import Selection
from feature_gs_ros.rasterizer.conventions import ALPHA_MIN

LUMINANCE = (0.2126, 0.7152, 0.0722)  # of linear RGB, Rec. 709
DARKEST = 1e-3  # luminance below which a colour has no hue to give
MAX_MOVE = 1e6  # metres along an axis
MOVED_AMOUNT = 0.5  # of a soft edge, from which on a Gaussian goes along: it can't move by half

Paint = Literal["flat", "hue", "brightness"]


@dataclass(frozen=True, eq=False)
class EditedMap:
    """All N Gaussians of a map with their edits, and which of them are still there; rows keep their indices."""

    gaussians: GaussianMap
    present: Tensor  # [N] bool
    changed: Tensor  # [N] bool, rows with another value than the original map's

    @staticmethod
    def of(gaussians: GaussianMap) -> EditedMap:
        """The map as it is."""
        everything = torch.ones(len(gaussians), dtype=torch.bool)
        return EditedMap(gaussians, everything, ~everything)

    def visible(self) -> GaussianMap:
        """What is left of the map; its `file_rows` are those of the map's file."""
        return self.gaussians if bool(self.present.all()) else self.gaussians.select(self.present)


class Operation(Protocol):
    """Changes the selected Gaussians. Its dataclass fields are what a record keeps."""

    def apply(self, edited: EditedMap, selection: Selection, map_from_splat: Sim3) -> EditedMap:
        """The map after the edit; the one before is left as it is."""
        ...


@dataclass(frozen=True)
class Delete:
    """Leave the selection out. At a soft edge opacity fades instead."""

    def apply(self, edited: EditedMap, selection: Selection, map_from_splat: Sim3) -> EditedMap:  # noqa: ARG002
        return _faded(edited, 1.0 - selection.dense(len(edited.present)))


@dataclass(frozen=True)
class Extract:
    """Leave out everything but the selection."""

    def apply(self, edited: EditedMap, selection: Selection, map_from_splat: Sim3) -> EditedMap:  # noqa: ARG002
        return _faded(edited, selection.dense(len(edited.present)))


@dataclass(frozen=True)
class Recolor:
    """Give the selection a colour. The maps are affine in colour, so they act on every SH coefficient alike.

    ``flat`` is the colour alone; ``hue`` takes its hue and saturation and keeps each Gaussian's own brightness, so that
    shading and highlights stay; ``brightness`` keeps the hue and takes the colour's mean brightness.
    """

    color: tuple[float, float, float]  # RGB, 0..1
    paint: Paint = "hue"

    def __post_init__(self) -> None:
        if len(self.color) != 3 or not all(0 <= value <= 1 for value in self.color):
            raise EditError(f"colour {tuple(self.color)} is not an RGB triple of 0 to 1", code="edit.value")
        if self.paint not in ("flat", "hue", "brightness"):
            raise EditError(
                f"'{self.paint}' is not a way to recolour; choose flat, hue or brightness", code="edit.unknown"
            )
        if self.paint == "hue" and _luminance(self.color) < DARKEST:
            raise EditError(
                f"colour {tuple(self.color)} is black and has no hue; recolour with paint 'flat'",
                code="edit.value",
            )

    def apply(self, edited: EditedMap, selection: Selection, map_from_splat: Sim3) -> EditedMap:  # noqa: ARG002
        gaussians, rows = edited.gaussians, selection.rows
        sh = gaussians.sh[rows]  # [M, K, 3]
        fraction = selection.amounts[:, None, None]
        matrix, offset = self._affine(sh[:, 0] * SH_C0 + 0.5)
        painted = sh @ matrix.T
        # c ↦ A c + b for colour c = SH + ½: the constant part goes into the first coefficient.
        painted[:, 0] += (matrix @ torch.full((3,), 0.5) + offset - 0.5) / SH_C0
        return _with(edited, rows, sh=torch.lerp(sh, painted, fraction))

    def _affine(self, colors: Tensor) -> tuple[Tensor, Tensor]:
        """A [3, 3] and b [3] for the selection's colours [M, 3]."""
        target, weights = torch.tensor(self.color), torch.tensor(LUMINANCE)
        if self.paint == "flat":
            return torch.zeros(3, 3), target
        if self.paint == "hue":
            return torch.outer(target, weights) / _luminance(self.color), torch.zeros(3)
        mean = float((colors.clamp_min(0) @ weights).mean())
        return torch.eye(3) * (_luminance(self.color) / max(mean, DARKEST)), torch.zeros(3)


@dataclass(frozen=True)
class Move:
    """Move, turn and scale the selection about its centroid, in the map frame; its view dependence turns with it."""

    translation: tuple[float, float, float] = (0.0, 0.0, 0.0)  # m, map frame
    rotation_wxyz: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)  # any length but zero
    scale: float = 1.0

    def __post_init__(self) -> None:
        numbers: Sequence[float] = (*self.translation, *self.rotation_wxyz, self.scale)
        if not all(math.isfinite(value) for value in numbers):
            raise EditError(f"a move by {numbers} holds a value that is not finite", code="edit.value")
        if max(map(abs, self.translation)) > MAX_MOVE:
            raise EditError(
                f"a move by {self.translation} m is out of range; give up to {MAX_MOVE:g} m an axis", code="edit.range"
            )
        length = math.hypot(*self.rotation_wxyz)
        if length < 1e-6:
            raise EditError("the rotation is the zero quaternion; no rotation is (1, 0, 0, 0)", code="edit.value")
        if length > 1e6:
            raise EditError(
                f"the rotation {self.rotation_wxyz} is not a quaternion; no rotation is (1, 0, 0, 0)", code="edit.value"
            )
        if not 1e-3 <= self.scale <= 1e3:
            raise EditError(f"scale {self.scale:g} is out of range; give 0.001 to 1000", code="edit.range")

    def apply(self, edited: EditedMap, selection: Selection, map_from_splat: Sim3) -> EditedMap:
        gaussians, rows = edited.gaussians, selection.rows[selection.amounts >= MOVED_AMOUNT]
        if len(rows) == 0:
            raise EditError(
                "no Gaussian takes half of the edit or more, so none moves; make the edge harder", code="edit.empty"
            )
        means = gaussians.means[rows].double().numpy()
        weights = gaussians.opacities[rows].double().numpy()
        centroid = map_from_splat.apply(np.average(means, axis=0, weights=weights + 1e-9))
        quat = np.array(self.rotation_wxyz) / np.linalg.norm(self.rotation_wxyz)
        turned = Sim3(self.scale, quat, np.zeros(3))
        about = Sim3(self.scale, quat, centroid - turned.apply(centroid) + np.array(self.translation))
        splat_move = map_from_splat.inverse() @ about @ map_from_splat
        moved = transformed(gaussians.select(rows), splat_move)
        values = {name: getattr(moved, name) for name in ("means", "quats_wxyz", "scales", "sh")}
        return _with(edited, rows, **values)


def _faded(edited: EditedMap, factor: Tensor) -> EditedMap:
    """Opacity times ``factor`` [N]; what can't be seen any more is gone."""
    rows = ((factor < 1) & (factor > 0) & edited.present).nonzero()[:, 0]
    opacities = edited.gaussians.opacities[rows] * factor[rows]
    faded = _with(edited, rows, opacities=opacities)
    gone = (factor == 0) | ((factor < 1) & (faded.gaussians.opacities < ALPHA_MIN))
    return replace(faded, present=edited.present & ~gone)


def _with(edited: EditedMap, rows: Tensor, **values: Tensor) -> EditedMap:
    """New values [M, ...] of some rows."""
    whole = {}
    for name, new in values.items():
        whole[name] = getattr(edited.gaussians, name).clone()
        whole[name][rows] = new
    changed = edited.changed.clone()
    changed[rows] = True
    return EditedMap(replace(edited.gaussians, **whole), edited.present, changed)


def _luminance(color: Sequence[float]) -> float:
    return sum(weight * value for weight, value in zip(LUMINANCE, color, strict=True))
