"""ShownMap: the map as its edits leave it, whose positions and Gaussians answers refer to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.editing import EditedMap


@dataclass(frozen=True, eq=False)
class ShownMap:
    """Rows keep their indices, so that masks, similarities and features of the learned map go with them."""

    gaussians: GaussianMap  # [N] with the edits; opacity 0 where an edit took them away
    present: Tensor | None  # [N] bool, those that no edit took away; None: all of them

    @staticmethod
    def of(edited: EditedMap) -> ShownMap:
        """What is shown of a map with these edits."""
        gaussians, present = edited.gaussians, edited.present
        if bool(present.all()):
            return ShownMap(gaussians, None)
        return ShownMap(replace(gaussians, opacities=gaussians.opacities * present), present)

    @cached_property
    def visible(self) -> GaussianMap:
        """Only those that are there, [M]."""
        return self.gaussians if self.present is None else self.gaussians.select(self.present)

    def of_all(self, values: Tensor) -> Tensor:
        """Values [N] of all rows, from those [M] of the visible ones; 0 elsewhere."""
        if self.present is None:
            return values
        whole = torch.zeros(len(self.gaussians), dtype=values.dtype)
        whole[self.present] = values
        return whole

    def only(self, mask: Tensor) -> Tensor:
        """A mask [N] without what an edit took away."""
        return mask if self.present is None else mask & self.present

    def field(self, learned: FeatureField) -> FeatureField:
        """The learned field, as one of this map: features went along, and what is gone is not seen."""
        provenance = replace(learned.provenance, map_checksum=self.gaussians.checksum)
        seen = learned.view_count if self.present is None else learned.view_count * self.present
        return replace(learned, view_count=seen, provenance=provenance)

    def known_field(self, learned: FeatureField) -> FeatureField:
        """The same, and nothing is known of what is gone: for consumers that ignore `seen`."""
        field = self.field(learned)
        if self.present is None:
            return field
        return replace(field, features=field.features * self.present.unsqueeze(1).to(field.features.device))
