"""RADIO's vision transformer (Ranzinger et al. 2024), after the published descriptions, for the published weights.

A ViT without a final norm: patches by a linear layer, one table of positions for all sizes, class tokens of several
teachers and registers before the patches, and for each teacher a head, an MLP with residual blocks, into its space.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Attention = Literal["plain", "kk", "self-correlation"]
# Heads of the published widths; others have one per 64 channels.
_HEADS = {768: 12, 1024: 16, 1152: 16, 1280: 16, 1536: 24}
_EPSILON = 1e-6  # of the blocks' norms
GAUSSIAN_CELLS = 7.0  # standard deviation of the window of "kk", cells, as RayFronts has it
SELF_CORRELATION = 10.0  # what cosines are multiplied by in "self-correlation", as RADSeg has it


@dataclass(frozen=True)
class RadioShape:
    """Sizes of a network, read off its weights."""

    width: int
    depth: int
    hidden: int  # of the blocks' MLPs
    patch: int  # pixels
    side: int  # of the square table of positions, cells
    tokens: int  # before the patches: class tokens and registers
    layer_scale: bool
    final_norm: bool

    @staticmethod
    def of(state: Mapping[str, Tensor]) -> RadioShape:
        """From the image network's tensors.

        Raises:
            KeyError: a tensor is missing.
            ValueError: a shape is of another network.
        """
        width, inputs = state["patch_generator.embedder.weight"].shape
        positions, patch = state["patch_generator.pos_embed"].shape[1], math.isqrt(inputs // 3)
        side = math.isqrt(positions)
        if 3 * patch * patch != inputs or side * side != positions:
            raise ValueError(f"{inputs} inputs per patch and {positions} positions are no squares, which")
        return RadioShape(
            width=width,
            depth=1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks.")),
            hidden=state["blocks.0.mlp.fc1.weight"].shape[0],
            patch=patch,
            side=side,
            tokens=state["patch_generator.cls_token.token"].shape[0],
            layer_scale="blocks.0.ls1.gamma" in state,
            final_norm="norm.weight" in state,
        )

    @property
    def heads(self) -> int:
        """Attention heads of a block."""
        return _HEADS.get(self.width, max(1, self.width // 64))


class RadioNetwork(nn.Module):
    """Images to tokens: [B, 3, H, W], normalised, sides multiples of the patch, to [B, tokens + cells, width]."""

    def __init__(self, shape: RadioShape) -> None:
        super().__init__()
        self.shape = shape
        self.patch_generator = _Patches(shape)
        self.blocks = nn.ModuleList(_Block(shape) for _ in range(shape.depth))
        self.norm: nn.Module = nn.LayerNorm(shape.width, eps=_EPSILON) if shape.final_norm else nn.Identity()

    def forward(self, pixels: Tensor, attention: Attention = "plain") -> Tensor:
        """All tokens, those of the patches row by row; ``attention`` is the last block's."""
        rows, columns = (side // self.shape.patch for side in pixels.shape[2:])
        x = self.patch_generator(pixels)
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x)
        bias = attention_window(rows, columns, self.shape.tokens).to(x) if attention == "kk" else None
        normed: Tensor = self.norm(last(x, attention, bias))
        return normed


class RadioHead(nn.Module):
    """From RADIO's space into a teacher's: a linear layer, residual blocks (`hidden` is so far), a last layer."""

    def __init__(self, inputs: int, hidden: int, outputs: int, blocks: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, hidden)) for _ in range(blocks)
        )
        self.final = nn.Sequential(nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, outputs))

    @staticmethod
    def for_state(state: Mapping[str, Tensor]) -> RadioHead:
        """An empty head of the shapes of a state dict.

        Raises:
            KeyError: it is of another kind of head.
        """
        hidden, inputs = state["fc1.weight"].shape
        numbers = [int(key.split(".")[1]) for key in state if key.startswith("blocks.")]
        return RadioHead(inputs, hidden, state["final.2.weight"].shape[0], 1 + max(numbers, default=-1))

    def hidden(self, x: Tensor) -> Tensor:
        """Up to the last linear layer, [..., inputs] -> [..., hidden]."""
        x = self.fc1(x)
        for block in self.blocks:
            x = x + block(x)
        activated: Tensor = self.final[1](self.final[0](x))
        return activated

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.final[2](self.hidden(x))
        return projected


class _Patches(nn.Module):
    def __init__(self, shape: RadioShape) -> None:
        super().__init__()
        self.shape = shape
        self.embedder = nn.Linear(3 * shape.patch**2, shape.width, bias=False)
        self.pos_embed = nn.Parameter(torch.zeros(1, shape.side**2, shape.width))
        self.cls_token = _Tokens(shape)

    def forward(self, pixels: Tensor) -> Tensor:
        patch = self.shape.patch
        rows, columns = pixels.shape[2] // patch, pixels.shape[3] // patch
        cells = functional.unfold(pixels, patch, stride=patch).transpose(1, 2)  # [B, cells, 3 · patch²]
        x = self.embedder(cells) + self._positions(rows, columns)
        first = self.cls_token.token.expand(len(x), -1, -1)
        return torch.cat([first, x], dim=1)

    def _positions(self, rows: int, columns: int) -> Tensor:
        """The table, shrunk or grown to the longer side and cut at the shorter: positions keep their aspect."""
        side, longer = self.shape.side, max(rows, columns)
        table = self.pos_embed
        grid = table.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
        if longer != side:
            grid = functional.interpolate(grid, (longer, longer), mode="bilinear", align_corners=False)
        return grid[:, :, :rows, :columns].flatten(2).transpose(1, 2).to(table.dtype)


class _Tokens(nn.Module):
    def __init__(self, shape: RadioShape) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(shape.tokens, shape.width))


class _Block(nn.Module):
    def __init__(self, shape: RadioShape) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.width, eps=_EPSILON)
        self.attn = _Attention(shape.width, shape.heads)
        self.norm2 = nn.LayerNorm(shape.width, eps=_EPSILON)
        self.mlp = _Mlp(shape.width, shape.hidden)
        self.ls1: nn.Module = _Scale(shape.width) if shape.layer_scale else nn.Identity()
        self.ls2: nn.Module = _Scale(shape.width) if shape.layer_scale else nn.Identity()

    def forward(self, x: Tensor, attention: Attention = "plain", bias: Tensor | None = None) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), attention, bias))
        scaled: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return scaled


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, attention: Attention, bias: Tensor | None) -> Tensor:
        query, key, value = (self._by_head(part) for part in self.qkv(x).chunk(3, dim=2))
        if attention == "kk":
            # NACLIP (Hajimiri et al. 2025): tokens attend to what has like keys, and lies near.
            query = key
        mixed = self.proj(self._joined(functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)))
        if attention == "self-correlation":
            # RADSeg (Alama et al. 2025): what the attention gave once more, as queries and keys of a second pass.
            unit = functional.normalize(self._by_head(mixed), dim=3)
            cosines = SELF_CORRELATION * unit @ unit.transpose(2, 3)
            shares = torch.softmax(cosines.masked_fill(cosines < 0, float("-inf")), dim=3)
            mixed = self.proj(self._joined(shares @ value))
        result: Tensor = mixed
        return result

    def _by_head(self, x: Tensor) -> Tensor:  # [B, T, width] -> [B, heads, T, width / heads]
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)

    @staticmethod
    def _joined(x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)


class _Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return projected


class _Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


def attention_window(rows: int, columns: int, tokens: int) -> Tensor:
    """What "kk" adds to the attention's logits: ``exp(−d² / 2σ²)`` of cells d apart; 0 from and to other tokens."""

    def along(length: int) -> Tensor:
        places = torch.arange(length, dtype=torch.float32)
        return torch.exp(-((places[:, None] - places) ** 2) / (2 * GAUSSIAN_CELLS**2))

    window = torch.einsum("ik,jl->ijkl", along(rows), along(columns)).reshape(rows * columns, rows * columns)
    return functional.pad(window, (tokens, 0, tokens, 0))
