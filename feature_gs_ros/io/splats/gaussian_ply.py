"""The 3DGS PLY: one row per Gaussian with log scales, an opacity logit, a quaternion wxyz, channel-major SH."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.core.errors import MapError
from feature_gs_ros.core.gaussians import BLUR, SH_C0, SH_COEFFICIENTS, GaussianMap
from feature_gs_ros.io.atomic import atomic_path
from feature_gs_ros.io.splats.ply import BLOCK_ROWS, PlyFile

MEANS = ("x", "y", "z")
NORMALS = ("nx", "ny", "nz")  # zeros that every viewer expects and none reads
SH_DC = ("f_dc_0", "f_dc_1", "f_dc_2")
OPACITY = ("opacity",)
SCALES = ("scale_0", "scale_1", "scale_2")
QUATS_WXYZ = ("rot_0", "rot_1", "rot_2", "rot_3")
FILTER_3D = ("filter_3D",)  # Mip-Splatting's, in splat units
RGB = ("red", "green", "blue")  # nerfstudio's colour without view dependence, in place of the SH

# The logistic of ±104 is 1 and 0 to the last bit of a float32, so that opaque and empty Gaussians survive.
MAX_LOGIT = 104.0

FLAT = 0.01  # of a disc's smaller scale: the third one of 2DGS
LARGE = 0.2  # of the map's radius, beyond which scales as a whole are none
MIN_ROWS = 16  # fewer values have no range to judge by
ANTIALIASED_NOTE = "it was trained with antialiasing, and is rasterised with it: opacities are compensated for the blur"
# Mip-Splatting's 2D filter, by its own default and in Brush, whose comment it is.
MIP_BLUR = 0.1  # px²
ANTIALIASED_COMMENTS = {BLUR: "comment antialiased 1", MIP_BLUR: "comment SplatRenderMode: mip"}
_ANTIALIASED = re.compile(
    rb"(?im)^(?:comment|obj_info)[ \t]+(?:(antialiased[ \t:=]*(?:1|true))|SplatRenderMode[ \t:=]*mip)\b"
)


def load_gaussian_ply(ply: PlyFile) -> GaussianMap:
    """Gaussians of the element 'vertex'; the order of its properties and further ones don't matter.

    Beside Inria's form: 2DGS (no ``scale_2``) as flat Gaussians, SH of degree 4 up to 3, Mip-Splatting's ``filter_3D``
    applied, and linear scales or opacities where their ranges say so. Each of these is one of the map's `notes`.

    Raises:
        MapError: a property is missing, ``f_rest_*`` don't make a degree from 0 to 4, or no row can be used.
    """
    reading = PlyReading.of(ply)
    columns = ply.columns("vertex", reading.groups)
    if reading.count == 0:
        raise MapError(f"'{ply.path}' holds no Gaussians; export the map again", code="map.empty")
    reading = reading.judged(columns)
    gaussians = GaussianMap.from_tensors(*reading.tensors(columns), source=f"'{ply.path}'")
    blur = BLUR if reading.blur is None else reading.blur
    return replace(gaussians, notes=reading.notes, antialiased=reading.blur is not None, blur=blur)


@dataclass(frozen=True)
class PlyReading:
    """How a file's columns become Gaussians: which variant it is, by its properties and its values."""

    count: int  # rows
    groups: dict[str, tuple[str, ...]]  # of properties, by what they become
    is_flat: bool  # 2DGS
    has_filter: bool  # Mip-Splatting
    plain_colors: bool  # RGB in place of SH
    cut_sh: bool  # a higher degree than is kept
    blur: float | None  # px², that it was trained antialiased with; None: it wasn't
    linear_scales: bool = False
    linear_opacities: bool = False

    @staticmethod
    def of(ply: PlyFile) -> PlyReading:
        """By the properties alone.

        Raises:
            MapError: as `load_gaussian_ply`.
        """
        vertex = ply.element("vertex")
        ply.require("vertex", (*MEANS, *OPACITY, *SCALES[:2], *QUATS_WXYZ))
        is_flat, has_filter = SCALES[2] not in vertex.names, FILTER_3D[0] in vertex.names
        plain = holds_plain_colors(vertex.names)
        colour = RGB if plain else (*SH_DC, *sh_rest_names(rest_count(vertex.names, f"'{ply.path}'")))
        groups = {"means": MEANS, "quats": QUATS_WXYZ, "scales": SCALES[: 2 if is_flat else 3], "opacity": OPACITY}
        groups |= {"sh": colour[: 3 * SH_COEFFICIENTS[-1]], **({"filter": FILTER_3D} if has_filter else {})}
        cut = len(colour) > 3 * SH_COEFFICIENTS[-1]
        return PlyReading(
            vertex.count, groups, is_flat, has_filter, plain, cut, MIP_BLUR if has_filter else stated_blur(ply)
        )

    def judged(self, columns: Mapping[str, NDArray[np.float32]]) -> PlyReading:
        """With what the values say, those of all rows or of many spread over them."""
        scales, opacities = linear_values(columns["means"], columns["scales"], columns["opacity"])
        return replace(self, linear_scales=scales, linear_opacities=opacities)

    def tensors(self, columns: Mapping[str, NDArray[np.float32]]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Means, quaternions, scales, opacities and SH of rows, as `GaussianMap.from_tensors` takes them."""
        # In double precision, as `from_parameters` says why.
        raw_scales, raw_opacity = torch.from_numpy(columns["scales"]), torch.from_numpy(columns["opacity"])[:, 0]
        scales = raw_scales if self.linear_scales else raw_scales.double().exp().float()
        opacities = raw_opacity if self.linear_opacities else raw_opacity.double().sigmoid().float()
        if self.is_flat:
            scales = torch.cat([scales, FLAT * scales.amin(dim=1, keepdim=True)], dim=1)
        if self.has_filter:
            scales, opacities = _filtered(scales, opacities, torch.from_numpy(columns["filter"]))
        sh = torch.from_numpy(columns["sh"]).reshape(len(scales), -1, 3)
        sh = (sh / 255 - 0.5) / SH_C0 if self.plain_colors else sh
        return torch.from_numpy(columns["means"]), torch.from_numpy(columns["quats"]), scales, opacities, sh

    @property
    def notes(self) -> tuple[str, ...]:
        """What was concluded, for people."""
        conclusions = {
            "a map of 2DGS (no scale_2): its discs are read as Gaussians of a hundredth of their width": self.is_flat,
            "its spherical harmonics of degree 4 are read up to 3": self.cut_sh,
            "its scales are linear, by their range; read as such": self.linear_scales,
            "its opacities are linear, by their range; read as such": self.linear_opacities,
            "Mip-Splatting's filter_3D is applied to scales and opacities": self.has_filter,
        }
        found = tuple(note for note, is_so in conclusions.items() if is_so)
        return found if self.blur is None else (*found, antialiased_note(self.blur))


def stated_blur(ply: PlyFile) -> float | None:
    """The blur, px², with which the map was trained antialiased by a comment of the header; None where none says so."""
    found = _ANTIALIASED.search(ply.header)
    return None if found is None else BLUR if found[1] else MIP_BLUR


def antialiased_comment(gaussians: GaussianMap) -> list[str]:
    """The header's line that `stated_blur` reads, if there is one to write."""
    return [ANTIALIASED_COMMENTS.get(gaussians.blur, ANTIALIASED_COMMENTS[BLUR])] if gaussians.antialiased else []


def as_antialiased(gaussians: GaussianMap, blur: float = BLUR) -> GaussianMap:
    """The map as one that was trained with opacity compensation for a blur of px²."""
    return replace(gaussians, antialiased=True, blur=blur, notes=(*gaussians.notes, antialiased_note(blur)))


def antialiased_note(blur: float) -> str:
    """Of the map's notes."""
    return f"{ANTIALIASED_NOTE} of {blur} px²"


def linear_values(
    means: NDArray[np.float32], scales: NDArray[np.float32], opacities: NDArray[np.float32]
) -> tuple[bool, bool]:
    """Whether a file's scales [N, 2 or 3] and opacities [N, 1] are linear, against the format, by their ranges.

    Scales: all positive, small beside the map as they are and large if they were logarithms. Opacities: all from 0 to
    1 and spread over it; logits of a trained map reach far beyond.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        radius = float(np.median(np.linalg.norm(means - np.median(means, axis=0), axis=1)))
        if not radius > 0 or len(means) < MIN_ROWS:
            return False, False
        typical = float(np.median(scales))
        are_scales = bool((scales > 0).all()) and typical < LARGE * radius < float(np.exp(np.float64(typical)))
        low, high = float(opacities.min()), float(opacities.max())
    return are_scales, 0 <= low < 0.2 and 0.8 < high <= 1


def _filtered(scales: Tensor, opacities: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """Scales [N, 3] and opacities [N] after Mip-Splatting's 3D smoothing filter of widths [N, 1] (its Eq. 7)."""
    squares = scales.double() ** 2
    smoothed = squares + width.double() ** 2
    fraction = (squares / smoothed).prod(dim=1).sqrt()
    return smoothed.sqrt().float(), (opacities * fraction).float()


def save_ply(gaussians: GaussianMap, path: str | Path, extra: Mapping[str, Tensor] | None = None) -> None:
    """Write a binary 3DGS PLY that other viewers open; float32 properties in the usual order.

    Args:
        gaussians: N Gaussians; values are converted to the PLY's logarithms and logits.
        path: .ply file; it appears whole or not at all.
        extra: further values, one tensor [N] per name, written as float32 after the usual properties.

    Raises:
        MapError: the map is empty, a name or a shape of ``extra`` doesn't fit, or the file can't be written.
    """
    path = Path(path)
    if len(gaussians) == 0:
        raise MapError(f"no Gaussian is left to write to '{path}'; a splat file can't be empty", code="map.empty")
    usual = property_names(gaussians)
    further = _check_extra(extra or {}, usual, len(gaussians))
    header = ["ply", "format binary_little_endian 1.0", *antialiased_comment(gaussians)]
    header += [f"element vertex {len(gaussians)}"]
    header += [f"property float {name}" for name in (*usual, *further)]
    try:
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            file.write("\n".join([*header, "end_header", ""]).encode("ascii"))
            for start in range(0, len(gaussians), BLOCK_ROWS):
                rows = slice(start, start + BLOCK_ROWS)
                more = [values[rows, None] for values in further.values()]
                file.write(np.concatenate([property_values(gaussians, rows), *more], axis=1).astype("<f4").tobytes())
    except OSError as error:
        raise MapError(f"can't write '{path}': {error.strerror}", code="map.unwritable") from error


def property_names(gaussians: GaussianMap) -> tuple[str, ...]:
    """The properties of a 3DGS PLY in the usual order: ``x y z nx ny nz f_dc f_rest opacity scale rot``."""
    rest = tuple(f"f_rest_{index}" for index in range(3 * (gaussians.sh.shape[1] - 1)))
    return (*MEANS, *NORMALS, *SH_DC, *rest, *OPACITY, *SCALES, *QUATS_WXYZ)


def property_values(gaussians: GaussianMap, rows: slice = slice(None)) -> NDArray[np.float32]:
    """Values [rows, properties] in the order of `property_names`."""
    sh = gaussians.sh[rows]  # [B, K, 3]
    opacities = gaussians.opacities[rows].double()
    logits = (opacities.log() - torch.log1p(-opacities)).clamp(-MAX_LOGIT, MAX_LOGIT)
    values = [
        gaussians.means[rows],
        torch.zeros(len(sh), len(NORMALS)),
        sh[:, 0],
        sh[:, 1:].transpose(1, 2).flatten(1),
        logits[:, None],
        gaussians.scales[rows].double().log(),
        gaussians.quats_wxyz[rows],
    ]
    table: NDArray[np.float32] = torch.cat([value.float() for value in values], dim=1).numpy()
    return table


def holds_plain_colors(names: Sequence[str]) -> bool:
    """Whether the properties are a colour without view dependence (`RGB`, 0 to 255) in place of the SH."""
    return SH_DC[0] not in names and all(name in names for name in RGB)


def rest_count(names: Sequence[str], source: str) -> int:
    """How many ``f_rest_*`` there are: 0, 9, 24, 45 or 72.

    Raises:
        MapError: another number, or numbering with gaps.
    """
    indices = {int(match[1]) for name in names if (match := re.fullmatch(r"f_rest_([0-9]{1,9})", name))}
    allowed = [3 * (coefficients - 1) for coefficients in (*SH_COEFFICIENTS, 25)]
    if len(indices) not in allowed or indices != set(range(len(indices))):
        raise MapError(
            f"{source} has {len(indices)} properties f_rest_*, up to f_rest_{max(indices)}; "
            f"SH of degree 0 to 4 have {', '.join(map(str, allowed))}, numbered from 0: export the map again",
            code="map.value",
        )
    return len(indices)


def sh_rest_names(count: int) -> list[str]:
    """Names of the ``count`` properties f_rest_*, which are channel-major, in the coefficient-major order of `sh`."""
    coefficients = count // 3
    return [f"f_rest_{channel * coefficients + k}" for k in range(coefficients) for channel in range(3)]


def _check_extra(extra: Mapping[str, Tensor], usual: Sequence[str], count: int) -> dict[str, NDArray[np.float32]]:
    for name, values in extra.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or name in usual:
            raise MapError(
                f"'{name}' can't name a further property: use letters, digits and _, and none of a 3DGS PLY",
                code="map.name",
            )
        if tuple(values.shape) != (count,):
            raise MapError(
                f"the further property '{name}' has shape {tuple(values.shape)}, expected ({count},)", code="map.shape"
            )
    return {name: values.detach().to("cpu", torch.float32).numpy() for name, values in extra.items()}
