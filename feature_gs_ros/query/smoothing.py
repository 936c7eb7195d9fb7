"""GaussianGraph: neighbouring Gaussians of like colour, over which the coarse scores of an extractor are spread."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.spatial import cKDTree
from torch import Tensor

from feature_gs_ros.core.errors import PromptError
from feature_gs_ros.core.gaussians import SH_C0, GaussianMap

NEIGHBOURS = 16
COLOR_DEVIATION = 10.0  # ΔE in CIE Lab at which a border between colours begins to hold scores back
MIN_COLOR_FACTOR = 0.01  # so that a lone Gaussian of odd colour still follows its neighbours
TOLERANCE = 3e-3  # of the solution, relative
MAX_ITERATIONS = 500


class GaussianGraph:
    """Each Gaussian and its nearest neighbours, weighted by nearness, likeness of colour and opacity.

    An extractor's cells are coarser than things: its scores reach over their borders and leave holes inside. Colour and
    geometry of the map know the borders. `smooth` brings the two together.
    """

    def __init__(self, gaussians: GaussianMap, neighbours: int = NEIGHBOURS) -> None:
        """Find the neighbours: about 10 µs a Gaussian; keep the graph for the next query."""
        count = len(gaussians)
        means = gaussians.means.numpy()
        opacities = gaussians.opacities.numpy()
        lab = _lab(gaussians.sh[:, 0].numpy() * np.float32(SH_C0) + np.float32(0.5))
        distances, columns = cKDTree(means).query(means, min(neighbours + 1, count), workers=-1)
        distances, columns = distances.reshape(count, -1), columns.reshape(count, -1)
        spacing = np.maximum(distances.sum(axis=1) / max(distances.shape[1] - 1, 1), 1e-12)
        rows = np.repeat(np.arange(count), columns.shape[1])
        columns = columns.ravel()
        nearness = np.exp(-(distances.ravel() ** 2) / (2 * spacing[rows] * spacing[columns]))
        contrast = ((lab[rows] - lab[columns]) ** 2).sum(axis=1)
        likeness = np.exp(-contrast / (2 * COLOR_DEVIATION**2))
        weights = nearness * (MIN_COLOR_FACTOR + (1 - MIN_COLOR_FACTOR) * likeness)
        weights *= opacities[rows] * opacities[columns]
        weights[rows == columns] = 0.0
        edges = csr_array(coo_array((weights, (rows, columns)), shape=(count, count)))
        edges = edges.maximum(edges.T)
        degree = np.asarray(edges.sum(axis=1)).ravel()
        self._root_degree = np.sqrt(np.where(degree > 0, degree, 1.0))  # [N]
        inverse = 1 / self._root_degree
        normalised = edges.multiply(inverse[:, None]).multiply(inverse[None, :])
        self._adjacency = csr_array(normalised).astype(np.float32)  # D^-½ A D^-½
        self._root_degree = self._root_degree.astype(np.float32)

    def __len__(self) -> int:
        return len(self._root_degree)

    def smooth(self, scores: Tensor, rate: float, seen: Tensor | None = None, trust: Tensor | None = None) -> Tensor:
        """Scores that vary little between like neighbours and stay near the given ones.

        Minimises ``½ Σ_ij a_ij (x_i − x_j)² + rate · Σ_i d_i (x_i − s_i)²`` with ``d_i = Σ_j a_ij``, each edge counted
        once a direction: the random walk with restart, which goes on with odds 1 : rate. Values stay within the range
        of the given ones; where nothing was seen they follow the neighbours alone.

        Args:
            scores: [N, P].
            rate: of restart, above 0; the walk reaches about ``rate^-½`` Gaussians far.
            seen: [N] bool; the scores of others don't count. All by default.
            trust: [N] from 0 to 1, the share in which a Gaussian's own score counts: its rate is ``rate · trust``.
                All alike by default.

        Returns:
            [N, P] float32.

        Raises:
            PromptError: the rate is not positive, or the scores are not of this map.
        """
        if not rate > 0:
            raise PromptError(f"smoothing rate {rate} is not positive; leave smoothing out instead")
        if scores.dim() != 2 or scores.shape[0] != len(self):
            raise PromptError(f"scores have shape {tuple(scores.shape)}, expected [{len(self)}, P]")
        given = scores.detach().to("cpu", torch.float32).numpy()
        restart = np.full(len(self), rate, dtype=np.float32)
        if trust is not None:
            restart *= np.maximum(trust.numpy().astype(np.float32), np.float32(1e-6))
        if seen is not None:
            restart[~seen.numpy()] = rate * 1e-6  # not 0: a part of the map that nobody saw needs some value
            given = np.where(seen.numpy()[:, None], given, np.float32(0))
        target = restart[:, None] * self._root_degree[:, None] * given
        # A Gaussian without neighbours has the row (restart) alone; all others 1 + restart, less the adjacency.
        diagonal = restart + (self._adjacency.sum(axis=1) > 0)
        solution = _conjugate_gradients(self._adjacency, diagonal, target, start=self._root_degree[:, None] * given)
        return torch.from_numpy(solution / self._root_degree[:, None])


def _conjugate_gradients(
    adjacency: csr_array,  # [N, N] symmetric
    diagonal: NDArray[np.float32],  # [N]
    target: NDArray[np.float32],  # [N, P]
    start: NDArray[np.float32],  # [N, P]
) -> NDArray[np.float32]:
    """Solve ``(diag − adjacency) x = target`` for all columns side by side."""
    solution: NDArray[np.float32] = start.copy()
    residual = target - (diagonal[:, None] * solution - adjacency @ solution)
    direction = residual.copy()
    energy = (residual**2).sum(axis=0)
    goal = TOLERANCE**2 * (target**2).sum(axis=0)
    for _ in range(MAX_ITERATIONS):
        active = energy > goal
        if not active.any():
            break
        image = diagonal[:, None] * direction - adjacency @ direction
        step = np.where(active, energy / np.maximum((direction * image).sum(axis=0), 1e-30), 0.0).astype(np.float32)
        solution += step * direction
        residual -= step * image
        after = (residual**2).sum(axis=0)
        direction = residual + np.where(active, after / np.maximum(energy, 1e-30), 0.0).astype(np.float32) * direction
        energy = np.where(active, after, energy)
    return solution


def _lab(rgb: NDArray[np.float32]) -> NDArray[np.float32]:  # [N, 3] -> [N, 3]
    unit = np.clip(rgb, 0.0, 1.0).astype(np.float32)
    return np.asarray(cv2.cvtColor(unit[None], cv2.COLOR_RGB2Lab)[0], dtype=np.float32)
