"""What a field of identity codes answers: class of a Gaussian, a pixel, a point; the objects with their extents."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from feature_gs_ros import rasterizer
from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.core.errors import IdentityError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.extractors import extractor_of
from feature_gs_ros.extractors.codes import IdentityExtractor
from feature_gs_ros.identity.encoding import BACKGROUND, rendered_classes
from feature_gs_ros.io.splats.registry import save_ply
from feature_gs_ros.query.clicks import weights_near, weights_of_pixel
from feature_gs_ros.query.objects import OrientedBox, find_objects
from feature_gs_ros.rasterizer import View

CHUNK = 16384
MIN_PIXELS = 4.0  # of an object in a view, at an eighth of its size, that count as showing it
RADIUS = 0.03  # m around a point in which something must lie
CERTAIN = 0.5  # confidence over which a Gaussian belongs to the object's extent


@dataclass(frozen=True, eq=False)
class IdentifiedObject:
    """One object of the map."""

    value: int  # its pixel value, the id
    name: str
    gaussians: int
    confidence: float  # opacity-weighted mean over its Gaussians
    box: OrientedBox | None  # of its largest connected part, map frame, metres; None where too little of it was seen
    views: tuple[str, ...]  # remembered views that show it


class Identities:
    """Reads one field; what all answers share is computed on first use."""

    def __init__(self, gaussians: GaussianMap, field: FeatureField) -> None:
        """
        Raises:
            FieldError: the field belongs to another map.
            IdentityError: it holds no identities.
        """
        field.check_map(gaussians)
        if field.extractor.name != "identity":
            raise IdentityError(
                f"the field is of the extractor '{field.extractor.name}', not of identities: use feature-gs identity",
                code="identity.mismatch",
            )
        extractor = extractor_of(field.extractor)
        assert isinstance(extractor, IdentityExtractor)
        self.gaussians = gaussians
        self.field = field
        self.extractor = extractor

    @property
    def names(self) -> dict[int, str]:
        """Names by id, background 0 among them."""
        return dict(self.extractor.names)

    @property
    def labels(self) -> Tensor:
        """Id [N] int32 of each Gaussian, 0 for background and what nothing is known of: the cloud field ``label``."""
        return self._labelled[0]

    @property
    def confidence(self) -> Tensor:
        """Share [N] of the likeliest class, 0 where nothing is known."""
        return self._labelled[1]

    @cached_property
    def _labelled(self) -> tuple[Tensor, Tensor]:
        values = torch.tensor(self.extractor.values, dtype=torch.int32)
        labels, confidences = [], []
        for rows in torch.split(torch.arange(len(self.field)), CHUNK):
            best, index = self.extractor.fractions(self.field.decoded(rows)).max(dim=1)
            labels.append(torch.where(best > 0, values[index], BACKGROUND).to(torch.int32))
            confidences.append(best)
        return torch.cat(labels), torch.cat(confidences)

    def render(self, view: View) -> NDArray[np.int32]:
        """Id [H, W] of each pixel: the classifier on rendered codes."""
        values = np.array(self.extractor.values, np.int32)
        labels: NDArray[np.int32] = values[rendered_classes(self.field, self.extractor, view).numpy()]
        return labels

    def at_pixel(self, view: View, u: float, v: float) -> IdentifiedObject | None:
        """The object under a pixel (corner-based) of a rectified view; None for background.

        Raises:
            PromptError: outside the image.
        """
        return self.at_weights(weights_of_pixel(view, u, v))

    def at_point(self, point: ArrayLike, radius: float = RADIUS) -> IdentifiedObject | None:
        """The object at a point [3] of the map frame; None for background or where nothing lies within ``radius`` m.

        Raises:
            PromptError: the point isn't finite.
        """
        alignment = self.field.provenance.splat_from_map
        position = alignment.apply(np.asarray(point, dtype=np.float64))
        return self.at_weights(weights_near(self.gaussians, position, radius * alignment.scale))

    def at_weights(self, weights: Tensor) -> IdentifiedObject | None:
        """The object that Gaussians of these weights [N] are, by the weighted sum of their codes; None: background."""
        rows = weights.nonzero()[:, 0]
        if len(rows) == 0:
            return None
        code = (weights[rows] / weights[rows].sum()) @ self.field.stored(rows)
        decoded = self.field.codec.decode(code) if self.field.codec else code
        fractions = self.extractor.fractions(decoded.unsqueeze(0))[0]
        value = self.extractor.values[int(fractions.argmax())] if float(fractions.sum()) > 0 else BACKGROUND
        return None if value == BACKGROUND else self.describe(value)

    def mask(self, value: int) -> Tensor:
        """[N] bool, the Gaussians of an object.

        Raises:
            IdentityError: no object has this id.
        """
        if value not in self.names or value == BACKGROUND:
            raise IdentityError(f"no object has the id {value}; there are {self._listed()}", code="identity.missing")
        return self.labels == value

    def value_of(self, name: str) -> int:
        """Id of an object by its name, or by its number.

        Raises:
            IdentityError: no object is called so.
        """
        for value, known in self.names.items():
            if value != BACKGROUND and name in (known, str(value)):
                return value
        raise IdentityError(f"no object is called '{name}'; there are {self._listed()}", code="identity.missing")

    def describe(self, value: int) -> IdentifiedObject:
        """Size, box and views of one object.

        Raises:
            IdentityError: no object has this id.
        """
        mask = self.mask(value)
        certain = mask & (self.confidence > CERTAIN)
        clusters = find_objects(
            self.gaussians, certain, self.confidence, self.field.provenance.splat_from_map.inverse()
        )
        opacity = self.gaussians.opacities[mask]
        total = float(opacity.sum())
        return IdentifiedObject(
            value,
            self.names[value],
            int(mask.sum()),
            float((opacity * self.confidence[mask]).sum()) / total if total > 0 else 0.0,
            clusters[0].box if clusters else None,
            tuple(name for name, shown in self._shown.items() if value in shown),
        )

    def objects(self) -> list[IdentifiedObject]:
        """All objects that hold any Gaussian, by id."""
        present = set(np.unique(self.labels.numpy()).tolist()) - {BACKGROUND}
        return [self.describe(value) for value in sorted(present)]

    def extract(self, value: int, path: str | Path | None = None) -> GaussianMap:
        """The Gaussians of one object, also written as a PLY with their confidence where ``path`` is given.

        Raises:
            IdentityError: no such object, or it holds no Gaussian.
            MapError: the file can't be written.
        """
        mask = self.mask(value)
        if not bool(mask.any()):
            raise IdentityError(
                f"'{self.names[value]}' holds no Gaussian of this map; was it annotated in any view?",
                code="identity.missing",
            )
        part = self.gaussians.select(mask)
        if path is not None:
            save_ply(part, path, {"confidence": self.confidence[mask], "label": self.labels[mask].float()})
        return part

    @cached_property
    def _shown(self) -> dict[str, set[int]]:
        """Ids that each remembered view shows, seen at an eighth of its size."""
        shown = {}
        for known in self.field.provenance.views:
            camera = known.camera.resized(max(1, known.camera.width // 8), max(1, known.camera.height // 8))
            view = rasterizer.view(self.gaussians, camera, known.camera_from_splat)
            values, counts = np.unique(self.render(view), return_counts=True)
            shown[known.name] = {int(v) for v, c in zip(values, counts, strict=True) if c >= MIN_PIXELS}
        return shown

    def _listed(self) -> str:
        return ", ".join(f"{value} '{name}'" for value, name in self.names.items() if value != BACKGROUND)
