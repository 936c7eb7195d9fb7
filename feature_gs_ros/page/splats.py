"""The map's Gaussians as a browser draws them: in the map frame, the most visible first, in chunks of a fixed size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3, rotations_from_quats_wxyz

if TYPE_CHECKING:
    import viser

COARSE = 20_000  # Gaussians that are sent first
SOFTWARE_GAUSSIANS = 20_000  # shown at first in a browser that draws without a GPU
CHUNK = 65_536  # Gaussians of a node: what changes is sent again by whole nodes
LOCAL_SIGMA = 0.05  # what the median standard deviation becomes: covariances travel as 16-bit floats
MAX_COVARIANCE = 6e4  # nearly the largest 16-bit float

Colors = NDArray[np.uint8]  # [N, 3]
Opacities = NDArray[np.uint8]  # [N]


@dataclass(frozen=True, eq=False)
class SplatCloud:
    """Gaussians in units of `unit` metres of the map frame, by falling visibility: row k is row `order[k]` of the map.

    Any first part of it is a coarser map.
    """

    order: NDArray[np.int64]  # [N]
    centers: NDArray[np.float32]  # [N, 3]
    covariances: NDArray[np.float32]  # [N, 3, 3]
    unit: float  # m

    @staticmethod
    def of(gaussians: GaussianMap, map_from_splat: Sim3, order: NDArray[np.int64] | None = None) -> SplatCloud:
        """A map, or the same map after an edit (then in the order given)."""
        scales = gaussians.scales * map_from_splat.scale
        if order is None:
            largest_two = scales.sort(dim=1).values[:, 1:].prod(dim=1)
            order = torch.argsort(gaussians.opacities * largest_two, descending=True, stable=True).numpy()
        rows = torch.from_numpy(order)
        unit = float(scales.prod(dim=1).pow(1 / 3).median()) / LOCAL_SIGMA
        rotation = torch.from_numpy(map_from_splat.rotation).float()
        axes = (rotation @ rotations_from_quats_wxyz(gaussians.quats_wxyz[rows])) * (scales[rows] / unit).unsqueeze(1)
        covariances = (axes @ axes.transpose(1, 2)).clamp(-MAX_COVARIANCE, MAX_COVARIANCE)
        centers = map_from_splat.apply(gaussians.means[rows].numpy()) / unit
        return SplatCloud(order, centers.astype(np.float32), covariances.numpy(), unit)

    def __len__(self) -> int:
        return len(self.order)


class SplatLayer:
    """One browser's splats: sent coarse first, then painted anew as answers and edits come."""

    def __init__(self, scene: viser.SceneApi, cloud: SplatCloud) -> None:
        self._scene = scene
        self._cloud = cloud
        self._nodes: list[tuple[slice, viser.GaussianSplatHandle]] = []
        self._visible = True

    @property
    def shown(self) -> int:
        """Gaussians that were sent."""
        return self._nodes[-1][0].stop if self._nodes else 0

    def resize(
        self,
        count: int,
        colors: Colors,
        opacities: Opacities,
        progress: Callable[[int, int], bool] | None = None,
    ) -> None:
        """Send the ``count`` most visible Gaussians, or take what is beyond them away.

        Args:
            colors: [N, 3], rows of the map.
            opacities: [N], rows of the map.
            progress: called after each chunk with the Gaussians sent and wanted; True stops.
        """
        count = min(count, len(self._cloud))
        while self._nodes and self._nodes[-1][0].stop > count:
            self._nodes.pop()[1].remove()
        while self.shown < count:
            end = min(count, COARSE if not self._nodes else self.shown + CHUNK)
            self._send(slice(self.shown, end), colors, opacities)
            if progress is not None and progress(end, count):
                return

    def clear(self) -> None:
        """Take all of them away."""
        for _, node in self._nodes:
            node.remove()
        self._nodes.clear()

    def show(self, visible: bool) -> None:
        """Show or hide all of them."""
        self._visible = visible
        for _, node in list(self._nodes):
            node.visible = visible

    def paint(self, colors: Colors, opacities: Opacities) -> None:
        """Give what was sent new colours [N, 3] and opacities [N]; nodes that stay as they are aren't sent again."""
        for rows, node in list(self._nodes):
            buffer = np.array(node.buffer)
            buffer[:, 7] = _rgba(colors[self._cloud.order[rows]], opacities[self._cloud.order[rows]])
            node.buffer = buffer

    def place(self, cloud: SplatCloud, colors: Colors, opacities: Opacities) -> None:
        """Show another cloud of as many Gaussians: the map after something moved."""
        count = self.shown
        self.clear()
        self._cloud = cloud
        self.resize(count, colors, opacities)

    def _send(self, rows: slice, colors: Colors, opacities: Opacities) -> None:
        order = self._cloud.order[rows]
        node = self._scene.add_gaussian_splats(
            f"/splats/{rows.start}",
            centers=self._cloud.centers[rows],
            covariances=self._cloud.covariances[rows],
            rgbs=colors[order],
            opacities=opacities[order][:, None],
            scale=self._cloud.unit,
            visible=self._visible,
        )
        self._nodes.append((rows, node))


def _rgba(colors: Colors, opacities: Opacities) -> NDArray[np.uint32]:
    """[M] uint32, little end first."""
    packed = np.concatenate([colors, opacities[:, None]], axis=1)
    return np.ascontiguousarray(packed).view("<u4")[:, 0]
