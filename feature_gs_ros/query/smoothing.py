"""GaussianGraph: neighbouring Gaussians of similar colour, over which an extractor's coarse scores are smoothed."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from feature_gs_ros.core.cache_folder import cache_folder
from feature_gs_ros.core.errors import PromptError
from feature_gs_ros.core.gaussians import SH_C0, GaussianMap
from feature_gs_ros.io.atomic import atomic_path
from feature_gs_ros.numerics.device import in_torch
from feature_gs_ros.numerics.multigrid import Level, RestartedLaplacian, SparseRows
from feature_gs_ros.numerics.multigrid_torch import DeviceLaplacian, DeviceLevel
from feature_gs_ros.numerics.sorting import morton_order

if TYPE_CHECKING:
    from scipy.sparse import csr_array

NEIGHBOURS = 16
COLOR_DEVIATION = 10.0  # ΔE in CIE Lab at which a border between colours begins to hold scores back
MIN_COLOR_FACTOR = 0.01  # so that a lone Gaussian of odd colour still follows its neighbours
TOLERANCE = 1e-2  # of the solution, relative, in the energy norm: 1 to 2% of a score's peak at single Gaussians
MIN_CACHED = 5000  # Gaussians; the graph of a smaller map is built faster than a folder fills
MAX_CACHE_BYTES = 2_000_000_000  # of all prepared graphs together; the longest unused ones go first

FORMAT = "feature_gs_ros graph 1"
_log = logging.getLogger(__name__)


class GaussianGraph:
    """Each Gaussian and its nearest neighbours, weighted by nearness, likeness of colour and opacity.

    An extractor's cells are coarser than objects: its scores cross their borders and leave holes inside. Colour and
    geometry of the map know the borders. `smooth` brings the two together.

    The system that `smooth` solves depends on the map alone. It is prepared once, with a hierarchy of aggregates
    (`numerics.multigrid`), and `of` keeps it in the cache folder.
    """

    def __init__(self, gaussians: GaussianMap, neighbours: int = NEIGHBOURS) -> None:
        """Find the neighbours and prepare the system: about 25 µs per Gaussian; `of` reads a prepared one."""
        from feature_gs_ros.numerics.aggregation import hierarchy_of  # with scipy, which answers don't need

        rows = morton_order(gaussians.means.numpy())
        adjacency, root_degree = _adjacency(gaussians, rows, neighbours)
        self._set(rows, hierarchy_of(adjacency, root_degree))

    @staticmethod
    def of(gaussians: GaussianMap) -> GaussianGraph:
        """The graph of a map, from the cache folder where it was prepared before, else prepared and kept there."""
        if len(gaussians) < MIN_CACHED:
            return GaussianGraph(gaussians)
        path = cache_folder("graphs") / f"{_key(gaussians)}.safetensors"
        graph = _read(path, len(gaussians))
        if graph is None:
            graph = GaussianGraph(gaussians)
            try:
                graph._save(path)
                _shrink(path.parent)
            except OSError as error:
                _log.warning("can't keep the prepared graph '%s': %s", path, error.strerror or error)
        return graph

    def __len__(self) -> int:
        return len(self._rows)

    def smooth(self, scores: Tensor, rate: float, seen: Tensor | None = None, trust: Tensor | None = None) -> Tensor:
        """Scores that vary little between like neighbours and stay near the given ones.

        Minimises ``½ Σ_ij a_ij (x_i − x_j)² + rate · Σ_i d_i (x_i − s_i)²`` with ``d_i = Σ_j a_ij``, each edge counted
        once per direction: the random walk with restart, which goes on with odds 1 : rate. Values stay within the range
        of the given ones; where nothing was seen they follow the neighbours alone.

        Args:
            scores: [N, P]; several columns cost less than as many calls.
            rate: of restart, above 0; the walk extends about ``rate^-½`` Gaussians far.
            seen: [N] bool; the scores of others don't count. All by default.
            trust: [N] from 0 to 1, the fraction in which a Gaussian's own score counts: its rate is ``rate · trust``.
                All alike by default.

        Returns:
            [N, P] float32, where the scores lie.

        Raises:
            PromptError: the rate is not positive, or the scores are not of this map.
        """
        if not rate > 0:
            raise PromptError(
                f"smoothing rate {rate} is not positive; leave smoothing out instead", code="prompt.range"
            )
        if scores.dim() != 2 or scores.shape[0] != len(self):
            raise PromptError(
                f"scores have shape {tuple(scores.shape)}, expected [{len(self)}, P]", code="prompt.shape"
            )
        if in_torch(scores.device):
            return self._smooth_there(scores.detach().to(torch.float32), rate, seen, trust)
        given = scores.detach().to(torch.float32).numpy()
        restart = np.full(len(self), rate, dtype=np.float32)
        if trust is not None:
            restart *= np.maximum(trust.numpy().astype(np.float32), np.float32(1e-6))
        if seen is not None:
            restart[~seen.numpy()] = rate * 1e-6  # not 0: a part of the map that nobody saw needs some value
            given = np.where(seen.numpy()[:, None], given, np.float32(0))
        restart = restart[self._rows]
        target = np.take(given, self._rows, axis=0) * (restart * self._root_degree)[:, None]
        solution = self._system(restart).solve(target, TOLERANCE)
        solution /= self._root_degree[:, None]
        smoothed = np.empty_like(solution)
        smoothed[self._rows] = solution
        return torch.from_numpy(smoothed)

    def _set(self, rows: NDArray[np.int32], levels: Sequence[Level]) -> None:
        self._rows = rows  # [N] the map's row of each unknown: along a Z-curve, so that neighbours share cache lines
        self._levels = levels
        self._root_degree = levels[0].null
        self._latest: tuple[NDArray[np.float32], RestartedLaplacian] | None = None
        self._resident: _Resident | None = None
        self._making = threading.Lock()

    def _smooth_there(self, given: Tensor, rate: float, seen: Tensor | None, trust: Tensor | None) -> Tensor:
        """The same by torch, where the scores lie."""
        device = given.device
        there = self._on(device)
        restart = torch.full((len(self),), rate, device=device)
        if trust is not None:
            restart *= trust.to(device, torch.float32).clamp_min(1e-6)
        if seen is not None:
            known = seen.to(device)
            restart = torch.where(known, restart, rate * 1e-6)
            given = torch.where(known[:, None], given, 0.0)
        restart = restart[there.rows]
        target = given[there.rows] * (restart * there.root_degree)[:, None]
        solution = DeviceLaplacian(there.levels, restart).solve(target, TOLERANCE) / there.root_degree[:, None]
        return torch.empty_like(solution).index_copy_(0, there.rows, solution)

    def _on(self, device: torch.device) -> _Resident:
        """The system on a device, uploaded once."""
        with self._making:
            if self._resident is None or self._resident.rows.device != device:
                levels = [DeviceLevel.of(level, device) for level in self._levels]
                self._resident = _Resident(torch.from_numpy(self._rows).long().to(device), levels)
            return self._resident

    def _system(self, restart: NDArray[np.float32]) -> RestartedLaplacian:
        """The system with this restart [N]; that of the latest question is most often it."""
        with self._making:
            if self._latest is None or not np.array_equal(self._latest[0], restart):
                self._latest = restart, RestartedLaplacian(self._levels, restart)
            return self._latest[1]

    def _save(self, path: Path) -> None:
        from safetensors.numpy import save_file

        tensors: dict[str, NDArray[Any]] = {"rows": self._rows}
        for index, level in enumerate(self._levels):
            tensors |= {f"{index}.diagonal": level.diagonal, f"{index}.null": level.null}
            tensors[f"{index}.radius"] = np.array([level.radius])
            for name, matrix in _matrices(level).items():
                tensors |= {f"{index}.{name}.{key}": array for key, array in matrix._asdict().items()}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, {"format": FORMAT})


@dataclass(frozen=True, eq=False)
class _Resident:
    """A graph on a device."""

    rows: Tensor  # [N] int64
    levels: Sequence[DeviceLevel]

    @property
    def root_degree(self) -> Tensor:
        return self.levels[0].null


def _matrices(level: Level) -> dict[str, SparseRows]:
    named = {"adjacency": level.adjacency, "prolongation": level.prolongation, "restriction": level.restriction}
    return {name: matrix for name, matrix in named.items() if matrix is not None}


def _key(gaussians: GaussianMap) -> str:
    """Changes with whatever the graph depends on: geometry, opacities, colours, and how it is made."""
    colors = gaussians.sh[:, 0].contiguous()
    digest = hashlib.sha256(f"{FORMAT} {NEIGHBOURS} {COLOR_DEVIATION} {MIN_COLOR_FACTOR}".encode())
    digest.update(gaussians.checksum.encode())
    digest.update(colors.numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path, count: int) -> GaussianGraph | None:
    """The graph in a file; None where there is no such file or it is damaged."""
    try:
        with safe_open(str(path), framework="np") as file:
            if (file.metadata() or {}).get("format") != FORMAT:
                return None
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        rows, levels = arrays["rows"], _levels_of(arrays)
        if len(rows) != count or not np.array_equal(np.bincount(rows, minlength=count), np.ones(count)):
            return None
        graph = GaussianGraph.__new__(GaussianGraph)
        graph._set(rows, levels)
        with contextlib.suppress(OSError):  # it was used: others go first. Another process may have removed it
            path.touch()
        return graph
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def _levels_of(arrays: dict[str, NDArray[np.generic]]) -> list[Level]:
    """What `GaussianGraph._save` wrote.

    Raises:
        KeyError, ValueError: the arrays don't fit together; kernels would read beside them.
    """
    levels: list[Level] = []
    depth = 1 + max(int(name.split(".")[0]) for name in arrays if name != "rows")
    sizes = [len(arrays[f"{index}.null"]) for index in range(depth)]

    def matrix(index: int, name: str, rows: int, columns: int) -> SparseRows:
        found = SparseRows(*(arrays[f"{index}.{name}.{key}"] for key in SparseRows._fields))  # type: ignore[arg-type]
        found.check(rows, columns)
        return found

    for index, size in enumerate(sizes):
        diagonal, null = (arrays[f"{index}.{name}"].astype(np.float32) for name in ("diagonal", "null"))
        if len(diagonal) != size or size == 0 or not (np.isfinite(diagonal).all() and (null > 0).all()):
            raise ValueError("a level's vectors don't fit together")
        coarse = sizes[index + 1] if index + 1 < depth else 0
        levels.append(
            Level(
                matrix(index, "adjacency", size, size),
                diagonal,
                null,
                float(arrays[f"{index}.radius"][0]),
                matrix(index, "prolongation", size, coarse) if coarse else None,
                matrix(index, "restriction", coarse, size) if coarse else None,
            )
        )
    return levels


def _shrink(folder: Path) -> None:
    """Remove the prepared graphs that were not used for longest, until the folder is small enough."""
    found = []
    for path in folder.glob("*.safetensors"):
        with contextlib.suppress(OSError):  # removed by another process
            status = path.stat()
            found.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= MAX_CACHE_BYTES:
            return
        path.unlink(missing_ok=True)
        total -= size


def _adjacency(
    gaussians: GaussianMap, rows: NDArray[np.int32], neighbours: int
) -> tuple[csr_array, NDArray[np.float64]]:
    """``D^-½ A D^-½`` [N, N] of the Gaussians in the order ``rows``, and ``D^½`` [N]; 1 where there is no neighbour."""
    from scipy.sparse import coo_array, csr_array
    from scipy.spatial import cKDTree

    count = len(gaussians)
    means = gaussians.means.numpy()[rows]
    opacities = gaussians.opacities.numpy()[rows].astype(np.float64)
    lab = _lab(gaussians.sh[:, 0].numpy()[rows] * np.float32(SH_C0) + np.float32(0.5))
    distances, columns = cKDTree(means).query(means, min(neighbours + 1, count), workers=-1)
    distances, columns = distances.reshape(count, -1), columns.reshape(count, -1)
    spacing = np.maximum(distances.sum(axis=1) / max(distances.shape[1] - 1, 1), 1e-12)
    sources = np.repeat(np.arange(count), columns.shape[1])
    columns = columns.ravel()
    nearness = np.exp(-(distances.ravel() ** 2) / (2 * spacing[sources] * spacing[columns]))
    contrast = ((lab[sources] - lab[columns]) ** 2).sum(axis=1)
    likeness = np.exp(-contrast / (2 * COLOR_DEVIATION**2))
    weights = nearness * (MIN_COLOR_FACTOR + (1 - MIN_COLOR_FACTOR) * likeness)
    weights *= opacities[sources] * opacities[columns]
    weights[sources == columns] = 0.0
    edges = csr_array(coo_array((weights, (sources, columns)), shape=(count, count)))
    edges = csr_array(edges.maximum(edges.T))
    edges.eliminate_zeros()
    degree = np.asarray(edges.sum(axis=1)).ravel()
    root_degree = np.sqrt(np.where(degree > 0, degree, 1.0))
    edges.data /= np.repeat(root_degree, np.diff(edges.indptr)) * root_degree[edges.indices]
    return edges, root_degree


def _lab(rgb: NDArray[np.float32]) -> NDArray[np.float32]:  # [N, 3] -> [N, 3]
    import cv2

    unit = np.clip(rgb, 0.0, 1.0).astype(np.float32)
    return np.asarray(cv2.cvtColor(unit[None], cv2.COLOR_RGB2Lab)[0], dtype=np.float32)
