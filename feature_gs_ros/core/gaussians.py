"""GaussianMap: the pretrained splat map, validated once on entry and never changed afterwards."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.core.errors import MapError

# A scale beyond this many times the median distance of the Gaussians from their centre fills the whole view.
ABSURD_SCALE_RATIO = 1e3
CURVE_BLOCK = 16  # Gaussians side by side on the Z-curve that have common bounds
CHECKSUM_ROWS = 1 << 18  # whose values are hashed at once
SH_COEFFICIENTS = (1, 4, 9, 16)  # of degrees 0..3
BLUR = 0.3  # px², added to the diagonal of covariances on the image by Inria's, gsplat's and nerfstudio's rasterisers
SH_C0 = 0.28209479177387814  # Y₀₀ = ½ √(1/π): the colour without view dependence is SH_C0 · sh[:, 0] + ½


@dataclass(frozen=True)
class DroppedGaussians:
    """How many rows of a file were left out on entry, by reason."""

    not_finite: int = 0
    zero_quaternion: int = 0
    absurd_scale: int = 0

    @property
    def total(self) -> int:
        return self.not_finite + self.zero_quaternion + self.absurd_scale

    def __str__(self) -> str:
        return (
            f"{self.total} dropped ({self.not_finite} not finite, {self.zero_quaternion} zero quaternion, "
            f"{self.absurd_scale} absurd scale)"
        )

    def __add__(self, other: DroppedGaussians) -> DroppedGaussians:
        return DroppedGaussians(
            self.not_finite + other.not_finite,
            self.zero_quaternion + other.zero_quaternion,
            self.absurd_scale + other.absurd_scale,
        )


@dataclass(frozen=True, eq=False)
class CurveBlocks:
    """Bounds of `CURVE_BLOCK` Gaussians each that lie side by side on a Z-curve, the last ones maybe fewer."""

    low: NDArray[np.float32]  # [B, 3] smallest x, y, z of the means
    high: NDArray[np.float32]  # [B, 3] largest
    scale: NDArray[np.float32]  # [B] the largest scale

    @staticmethod
    def of(means: NDArray[np.float32], scales: NDArray[np.float32]) -> CurveBlocks:
        """Of means [N, 3] and scales [N, 3] in that order."""
        starts = np.arange(0, len(means), CURVE_BLOCK)
        low, high = np.minimum.reduceat(means, starts), np.maximum.reduceat(means, starts)
        return CurveBlocks(low, high, np.maximum.reduceat(scales.max(axis=1), starts))


@dataclass(frozen=True, eq=False)
class GaussianMap:
    """N Gaussians in the splat's own frame and scale; float32 on the CPU, linear values.

    Build one by `GaussianMap.from_tensors`, which validates; the fields are trusted from there on.
    """

    means: Tensor  # [N, 3] splat frame, splat units
    quats_wxyz: Tensor  # [N, 4] unit
    scales: Tensor  # [N, 3] standard deviations along the axes, splat units, > 0
    opacities: Tensor  # [N] in [0, 1]
    sh: Tensor  # [N, K, 3] spherical harmonics, K = (degree + 1)², coefficient-major, RGB last
    kept_rows: Tensor | None = None  # [N] int64 rows of the file that were kept; None where all were
    dropped: DroppedGaussians = field(default_factory=DroppedGaussians)
    notes: tuple[str, ...] = ()  # what its file says that isn't kept, and what was concluded from its values
    antialiased: bool = False  # trained with opacity compensation, and to be rasterised with it
    blur: float = BLUR  # px², that it was trained with; Mip-Splatting's is another
    # Where the rows lie along a Z-curve: bounds of blocks of them. A copy with other values (`replace`) has none.
    curve: CurveBlocks | None = field(default=None, init=False)

    @staticmethod
    def from_tensors(
        means: Tensor,  # [N, 3]
        quats_wxyz: Tensor,  # [N, 4] any length but zero
        scales: Tensor,  # [N, 3] linear
        opacities: Tensor,  # [N] linear
        sh: Tensor,  # [N, K, 3]
        source: str = "the map",
    ) -> GaussianMap:
        """Validate and keep what can be rasterised.

        Rows with NaN or Inf, a zero quaternion, or a scale that is not positive or more than
        `ABSURD_SCALE_RATIO` times the map's radius are dropped and counted in `dropped`.

        Raises:
            MapError: the shapes disagree, or nothing is left.
        """
        _check_shapes(means, quats_wxyz, scales, opacities, sh, source)
        count = means.shape[0]
        means, quats_wxyz, scales, opacities, sh = (
            tensor.detach().to("cpu", torch.float32) for tensor in (means, quats_wxyz, scales, opacities, sh)
        )
        keep, norms, dropped = usable_rows(means, quats_wxyz, scales, opacities, sh)
        if not bool(keep.any()):
            raise MapError(
                f"none of the {count} Gaussians of {source} can be used; export the map again", code="map.empty"
            )
        rows = None if dropped.total == 0 else keep.nonzero()[:, 0]
        if rows is not None:
            means, quats_wxyz, scales, opacities, sh, norms = (
                tensor[rows] for tensor in (means, quats_wxyz, scales, opacities, sh, norms)
            )
        return GaussianMap(
            means=means.contiguous(),
            quats_wxyz=(quats_wxyz / norms.unsqueeze(1)).float().contiguous(),
            scales=scales.contiguous(),
            opacities=opacities.clamp(0.0, 1.0).contiguous(),
            sh=sh.contiguous(),
            kept_rows=rows,
            dropped=dropped,
        )

    @staticmethod
    def from_parameters(
        means: Tensor,  # [N, 3]
        quats_wxyz: Tensor,  # [N, 4] any length but zero
        log_scales: Tensor,  # [N, 3]
        opacity_logits: Tensor,  # [N]
        sh: Tensor,  # [N, K, 3]
        source: str = "the map",
    ) -> GaussianMap:
        """From what trainers optimise and files hold: logarithms of scales and logits of opacities.

        Raises:
            MapError: as `from_tensors`.
        """
        # In double precision: float32 exp and sigmoid differ between processors, and with them `checksum`.
        return GaussianMap.from_tensors(
            means,
            quats_wxyz,
            log_scales.detach().double().exp().float(),
            opacity_logits.detach().double().sigmoid().float(),
            sh,
            source,
        )

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def file_rows(self) -> Tensor:
        """Rows [N] (int64) of the file, or of the map it was selected from, that hold these Gaussians."""
        return torch.arange(len(self)) if self.kept_rows is None else self.kept_rows

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 3."""
        return SH_COEFFICIENTS.index(self.sh.shape[1])

    @cached_property
    def checksum(self) -> str:
        """SHA-256 (hex) of geometry, opacity and mode: what W depends on, so what a field belongs to.

        Means count to the last bit. The other values went through exp, a logistic or a square root, whose last
        bit is the processor's: they count to 16 bits of their mantissa, so that a robot reads its workstation's field.
        """
        return checksum_of(lambda name: getattr(self, name).split(CHECKSUM_ROWS), self.antialiased, self.blur)

    def along_curve(self, blocks: CurveBlocks, checksum: str) -> GaussianMap:
        """This map, whose rows are known to lie along a Z-curve; its file says the blocks' bounds and its checksum."""
        object.__setattr__(self, "curve", blocks)
        self.__dict__["checksum"] = checksum
        return self

    def select(self, mask: Tensor) -> GaussianMap:
        """The Gaussians where ``mask`` [N] (bool, or row indices) says so, in the same order."""
        rows = mask.nonzero()[:, 0] if mask.dtype == torch.bool else mask
        return GaussianMap(
            means=self.means[rows],
            quats_wxyz=self.quats_wxyz[rows],
            scales=self.scales[rows],
            opacities=self.opacities[rows],
            sh=self.sh[rows],
            kept_rows=self.file_rows[rows],
            antialiased=self.antialiased,
            blur=self.blur,
        )


def checksum_of(blocks_of: Callable[[str], Iterable[Tensor]], antialiased: bool, blur: float) -> str:
    """`GaussianMap.checksum` of values that come in blocks of rows, by the name of the map's tensor."""
    digest = hashlib.sha256()
    for means in blocks_of("means"):
        digest.update(means.numpy().tobytes())
    for name in ("quats_wxyz", "scales", "opacities"):
        for values in blocks_of(name):
            digest.update(((values.view(torch.int32) + 0x40) >> 7).numpy().tobytes())
    if antialiased:
        digest.update(b"antialiased")  # other weights
    if blur != BLUR:
        digest.update(f"blur {blur:.6g}".encode())
    return digest.hexdigest()


def usable_rows(
    means: Tensor,
    quats_wxyz: Tensor,
    scales: Tensor,
    opacities: Tensor,
    sh: Tensor,
    largest: float | None = None,
) -> tuple[Tensor, Tensor, DroppedGaussians]:
    """Which rows can be rasterised [N] bool, the quaternions' lengths [N] float64, and how many were dropped why.

    Args:
        largest: scale beyond which a Gaussian is dropped; `largest_scale` of these rows by default.
    """
    count = means.shape[0]
    finite = torch.ones(count, dtype=torch.bool)
    for tensor in (means, quats_wxyz, scales, opacities, sh):
        low, high = tensor.reshape(count, -1).aminmax(dim=1)  # both are NaN where a row holds one
        finite &= torch.isfinite(low) & torch.isfinite(high)
    norms = quats_wxyz.double().norm(dim=1)  # float32 squares of large values overflow
    turned = norms > 1e-8
    usable = finite & turned
    sane = (scales > 0).all(dim=1)
    limit = largest_scale(means[usable]) if largest is None else largest
    if limit is not None:
        sane &= scales.amax(dim=1) <= limit
    dropped = DroppedGaussians(
        not_finite=int((~finite).sum()),
        zero_quaternion=int((finite & ~turned).sum()),
        absurd_scale=int((usable & ~sane).sum()),
    )
    return usable & sane, norms, dropped


def largest_scale(means: Tensor) -> float | None:
    """The scale beyond which a Gaussian is far larger than the map of these means [M, 3]; None where nothing tells."""
    if len(means) == 0:
        return None
    offsets = means.double() - means.median(dim=0).values
    radius = float(offsets.norm(dim=1).median())
    return ABSURD_SCALE_RATIO * radius if radius > 0 else None


def _check_shapes(
    means: Tensor, quats_wxyz: Tensor, scales: Tensor, opacities: Tensor, sh: Tensor, source: str
) -> None:
    if means.dim() != 2:
        raise MapError(f"means of {source} has shape {tuple(means.shape)}, expected (N, 3)", code="map.shape")
    count = means.shape[0]
    if count == 0:
        raise MapError(f"{source} holds no Gaussians; export the map again", code="map.empty")
    wanted = {"means": (count, 3), "quats_wxyz": (count, 4), "scales": (count, 3), "opacities": (count,)}
    given = {"means": means, "quats_wxyz": quats_wxyz, "scales": scales, "opacities": opacities}
    for name, shape in wanted.items():
        if tuple(given[name].shape) != shape:
            raise MapError(
                f"{name} of {source} has shape {tuple(given[name].shape)}, expected {shape}", code="map.shape"
            )
    if sh.dim() != 3 or sh.shape[0] != count or sh.shape[1] not in SH_COEFFICIENTS or sh.shape[2] != 3:
        raise MapError(
            f"sh of {source} has shape {tuple(sh.shape)}, expected ({count}, K, 3) with K in {SH_COEFFICIENTS}",
            code="map.shape",
        )
