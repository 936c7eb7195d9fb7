"""LSeg's image network (Li et al. 2022): a ViT-L/16 and the DPT head (Ranftl et al. 2021), into CLIP's text space.

Attributes go by the names of the published checkpoints' keys, so that a state dict fits as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from feature_gs_ros.extractors.network import resized_positions

PATCH = 16
MULTIPLE = 32  # of the input's sides: the deepest map has stride 32, and the head doubles it back


@dataclass(frozen=True)
class Shape:
    """Sizes of the network; by default those of the published checkpoints."""

    width: int = 1024  # of the ViT
    depth: int = 24
    heads: int = 16
    taps: tuple[int, int, int, int] = (5, 11, 17, 23)  # blocks whose outputs the head takes
    channels: tuple[int, ...] = (256, 512, 1024, 1024)  # of these, brought to strides 4, 8, 16, 32
    features: int = 256  # of the head
    outputs: int = 512  # CLIP's space
    positions: int = 24  # side of the grid of positions, 384 / 16

    @staticmethod
    def of(state: Mapping[str, Tensor]) -> Shape:
        """Sizes of the network that a state dict is of: four taps at equal distances, heads of 64 channels.

        Raises:
            KeyError: a key is missing.
            ValueError: a tensor has too few axes.
        """
        width, outputs = state["pretrained.model.cls_token"].shape[-1], state["scratch.head1.weight"].shape[0]
        depth = 1 + max(int(key.split(".")[3]) for key in state if key.startswith("pretrained.model.blocks."))
        channels = [state[f"pretrained.act_postprocess{level}.3.weight"].shape[0] for level in (1, 2, 3, 4)]
        positions = round((state["pretrained.model.pos_embed"].shape[1] - 1) ** 0.5)
        first, second, third = (depth * quarter // 4 - 1 for quarter in (1, 2, 3))
        features = state["scratch.layer1_rn.weight"].shape[0]
        taps = (first, second, third, depth - 1)
        return Shape(width, depth, max(1, width // 64), taps, tuple(channels), features, outputs, positions)


class LSegNetwork(nn.Module):
    """From pixels to the head's last map before its affine stages, which are `affine` and a doubling of the size."""

    def __init__(self, shape: Shape | None = None) -> None:
        super().__init__()
        shape = shape or Shape()
        self.taps = shape.taps
        first, second, third, fourth = shape.channels
        self.pretrained = nn.ModuleDict(
            {
                "model": _VisionTransformer(shape),
                "act_postprocess1": _reassemble(shape.width, first, nn.ConvTranspose2d(first, first, 4, stride=4)),
                "act_postprocess2": _reassemble(shape.width, second, nn.ConvTranspose2d(second, second, 2, stride=2)),
                "act_postprocess3": _reassemble(shape.width, third, None),
                "act_postprocess4": _reassemble(shape.width, fourth, nn.Conv2d(fourth, fourth, 3, stride=2, padding=1)),
            }
        )
        self.scratch = nn.ModuleDict(
            {
                **{
                    f"layer{level}_rn": nn.Conv2d(channels, shape.features, 3, padding=1, bias=False)
                    for level, channels in enumerate(shape.channels, start=1)
                },
                **{f"refinenet{level}": _Fusion(shape.features) for level in (1, 2, 3, 4)},
                "head1": nn.Conv2d(shape.features, shape.outputs, 1),
            }
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W], sides multiples of 32, in −1 … 1, to [B, features, H/4, W/4]."""
        rows, columns = pixels.shape[2] // PATCH, pixels.shape[3] // PATCH
        tapped = self.pretrained["model"](pixels, self.taps)
        levels = []
        for level, tokens in enumerate(tapped, start=1):
            stages: Any = self.pretrained[f"act_postprocess{level}"]
            maps = stages["0"](tokens).transpose(1, 2).unflatten(2, (rows, columns))
            maps = stages["3"](maps)
            levels.append(self.scratch[f"layer{level}_rn"](stages["4"](maps) if "4" in stages else maps))
        path: Tensor | None = None
        for level in (4, 3, 2, 1):
            fusion: Any = self.scratch[f"refinenet{level}"]
            path = fusion(path, levels[level - 1])
            if level > 1:
                path = fusion.out_conv(doubled(path))
        assert path is not None
        return path

    def affine(self) -> tuple[Tensor, Tensor]:
        """The two 1×1 convolutions at the end as one map: A [features, outputs] and b [outputs], ``x A + b``.

        A 1×1 convolution and a bilinear resize commute, the weights of the latter sum to one: it may come before.
        """
        fusion: Any = self.scratch["refinenet1"]
        head: Any = self.scratch["head1"]
        last = fusion.out_conv
        inner, outer = last.weight[:, :, 0, 0], head.weight[:, :, 0, 0]
        return (outer @ inner).T, outer @ last.bias + head.bias


def doubled(maps: Tensor) -> Tensor:
    """[B, C, h, w] to [B, C, 2h, 2w], bilinear, corners on corners."""
    return functional.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=True)


class _VisionTransformer(nn.Module):
    """ViT by timm's names; gives the outputs of some blocks."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + shape.positions**2, shape.width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, shape.width, PATCH, stride=PATCH)})
        self.blocks = nn.ModuleList(_Block(shape.width, shape.heads) for _ in range(shape.depth))

    def forward(self, pixels: Tensor, taps: tuple[int, ...]) -> list[Tensor]:  # [B, 3, H, W] -> [B, 1 + cells, width]
        cells = self.patch_embed["proj"](pixels)
        positions = resized_positions(
            self.pos_embed[0], cells.shape[2], cells.shape[3], mode="bilinear", antialias=False
        )
        tokens = cells.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1) + positions
        outputs = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in taps:
                outputs.append(x)
        return outputs


class _Block(nn.Module):
    """Attention and MLP, each after a layer norm and added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:  # [B, tokens, width]
        parts = self.attn["qkv"](self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        x = x + self.attn["proj"](attended.transpose(1, 2).flatten(2))
        out: Tensor = x + self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm2(x))))
        return out


class _Readout(nn.Module):
    """Adds what the class token says to every cell's token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(2 * width, width), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:  # [B, 1 + cells, width] -> [B, cells, width]
        cells = x[:, 1:]
        out: Tensor = self.project(torch.cat([cells, x[:, :1].expand_as(cells)], dim=2))
        return out


class _Residual(nn.Module):
    """Two 3×3 convolutions with batch norms, added to their input."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.bn1(self.conv1(functional.relu(x)))
        out: Tensor = x + self.bn2(self.conv2(functional.relu(hidden)))
        return out


class _Fusion(nn.Module):
    """Adds a finer level to the path from the coarser ones; its doubling and ``out_conv`` are the caller's to apply."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(features, features, 1)
        self.resConfUnit1 = _Residual(features)
        self.resConfUnit2 = _Residual(features)

    def forward(self, path: Tensor | None, level: Tensor) -> Tensor:
        joined = level if path is None else path + self.resConfUnit1(level)
        out: Tensor = self.resConfUnit2(joined)
        return out


def _reassemble(width: int, channels: int, resize: nn.Module | None) -> nn.ModuleDict:
    """Tokens to a map of one level; the keys are indices in the published code's sequence."""
    stages: dict[str, nn.Module] = {"0": _Readout(width), "3": nn.Conv2d(width, channels, 1)}
    return nn.ModuleDict({**stages, "4": resize} if resize is not None else stages)
