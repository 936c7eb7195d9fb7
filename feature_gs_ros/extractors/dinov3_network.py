"""DINOv3's vision transformer (Siméoni et al. 2025) and dino.txt's towers (Jose et al. 2025), for published weights.

Written after the papers and the published layouts: rotary positions, class token and registers before the patches,
scaled layers, SwiGLU in the "plus" sizes. dino.txt puts two more blocks on the image tokens, and a causal text
transformer beside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

_HEADS = {4096: 32}  # others have one per 64 channels
_EPSILON = 1e-5
_ROTATION_BASE = 100.0


@dataclass(frozen=True)
class Dinov3Shape:
    """Sizes of a network, read off its weights in torch.hub's layout."""

    width: int
    depth: int
    hidden: int
    patch: int
    registers: int
    swiglu: bool

    @staticmethod
    def of(state: Mapping[str, Tensor]) -> Dinov3Shape:
        """
        Raises:
            KeyError: a tensor is missing.
        """
        swiglu = "blocks.0.mlp.w1.weight" in state
        width, _, patch, _ = state["patch_embed.proj.weight"].shape
        return Dinov3Shape(
            width=width,
            depth=1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks.")),
            hidden=state["blocks.0.mlp.w1.weight" if swiglu else "blocks.0.mlp.fc1.weight"].shape[0],
            patch=patch,
            registers=state["storage_tokens"].shape[1],
            swiglu=swiglu,
        )

    @property
    def heads(self) -> int:
        """Attention heads of a block."""
        return heads_of(self.width)


def heads_of(width: int) -> int:
    """Attention heads of a transformer of this width."""
    return _HEADS.get(width, max(1, width // 64))


class Dinov3Network(nn.Module):
    """Images [B, 3, H, W], sides multiples of the patch, to normalised tokens [B, 1 + registers + cells, width]."""

    def __init__(self, shape: Dinov3Shape) -> None:
        super().__init__()
        self.shape = shape
        self.patch_embed = _PatchEmbed(shape.width, shape.patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.width))
        self.storage_tokens = nn.Parameter(torch.zeros(1, shape.registers, shape.width))
        self.blocks = nn.ModuleList(
            Block(shape.width, shape.hidden, shape.swiglu, qkv_bias=True) for _ in range(shape.depth)
        )
        self.norm = nn.LayerNorm(shape.width, eps=_EPSILON)

    def forward(self, pixels: Tensor) -> Tensor:
        cells = self.patch_embed.proj(pixels)
        rows, columns = cells.shape[2:]
        first = torch.cat([self.cls_token, self.storage_tokens], dim=1).expand(len(cells), -1, -1)
        x = torch.cat([first, cells.flatten(2).transpose(1, 2)], dim=1)
        rotation = rotations(rows, columns, self.shape.width // self.shape.heads).to(x)
        for block in self.blocks:
            x = block(x, rotation)
        normed: Tensor = self.norm(x)
        return normed


class Block(nn.Module):
    """Attention and MLP with residuals and scaled layers, as DINOv3 and the head of dino.txt have them."""

    def __init__(self, width: int, hidden: int, swiglu: bool, qkv_bias: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=_EPSILON)
        self.attn = _Attention(width, qkv_bias)
        self.ls1 = _Scale(width)
        self.norm2 = nn.LayerNorm(width, eps=_EPSILON)
        self.mlp: nn.Module = _SwiGlu(width, hidden) if swiglu else _Mlp(width, hidden)
        self.ls2 = _Scale(width)

    def forward(self, x: Tensor, rotation: Tensor | None = None) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), rotation))
        scaled: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return scaled


class DinoTxtHead(nn.Module):
    """Image tokens into the space of words: blocks without positions, then a norm."""

    def __init__(self, width: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, hidden, swiglu=True, qkv_bias=False) for _ in range(depth))
        self.ln_final = nn.LayerNorm(width, eps=_EPSILON)

    @staticmethod
    def for_state(state: Mapping[str, Tensor]) -> DinoTxtHead:
        """An empty head of the shapes of a state dict.

        Raises:
            KeyError: it is of another kind of head.
        """
        hidden, width = state["blocks.0.mlp.w1.weight"].shape
        return DinoTxtHead(width, hidden, _depth(state))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        normed: Tensor = self.ln_final(x)
        return normed


class DinoTxtText(nn.Module):
    """CLIP's token numbers [T, L] to embeddings [T, D], at the end token, whose number is the highest."""

    def __init__(self, words: int, length: int, width: int, hidden: int, depth: int, outputs: int) -> None:
        super().__init__()
        self.backbone = _TextBackbone(words, length, width, hidden, depth)
        self.head = _TextHead(width, outputs)

    @staticmethod
    def for_state(state: Mapping[str, Tensor]) -> DinoTxtText:
        """An empty tower of the shapes of a state dict.

        Raises:
            KeyError: it is of another kind of tower.
        """
        words, width = state["backbone.token_embedding.weight"].shape
        bare = {key.removeprefix("backbone."): value for key, value in state.items()}
        return DinoTxtText(
            words,
            state["backbone.positional_embedding"].shape[0],
            width,
            state["backbone.blocks.0.feed_forward.fc1.weight"].shape[0],
            _depth(bare),
            state["head.linear_projection.weight"].shape[0],
        )

    def forward(self, numbers: Tensor) -> Tensor:
        tokens = self.head.linear_projection(self.backbone(numbers))
        ends: Tensor = tokens[torch.arange(len(tokens)), numbers.argmax(dim=1)]
        return ends


def rotations(rows: int, columns: int, channels: int) -> Tensor:
    """Cosines and sines [2, cells, channels] of the rotary positions; an image's sides are −1 … 1 whatever its size.

    The angles are ``2π y / p_k`` in the first half of the frequencies and ``2π x / p_k`` in the second, with
    ``p_k = 100^(4k / D)``.
    """
    periods = _ROTATION_BASE ** (4 * torch.arange(channels // 4, dtype=torch.float32) / channels)
    places = [(torch.arange(length, dtype=torch.float32) + 0.5) / length * 2 - 1 for length in (rows, columns)]
    grid = torch.stack(torch.meshgrid(*places, indexing="ij"), dim=2).reshape(rows * columns, 2)
    angles = (2 * math.pi * grid[:, :, None] / periods).flatten(1).tile(2)
    return torch.stack([angles.cos(), angles.sin()])


class _PatchEmbed(nn.Module):
    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)


class _Attention(nn.Module):
    def __init__(self, width: int, qkv_bias: bool, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads_of(width), causal
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rotation: Tensor | None = None) -> Tensor:
        parts = self.qkv(x).reshape(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = parts
        if rotation is not None:
            query, key = (_rotated(part, rotation) for part in (query, key))
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        projected: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return projected


def _rotated(x: Tensor, rotation: Tensor) -> Tensor:
    """[B, heads, T, D] with its last cells turned by their positions; the tokens before them stay."""
    cosines, sines = rotation
    first, cells = x[:, :, : -len(cosines)], x[:, :, -len(cosines) :]
    left, right = cells.chunk(2, dim=3)
    return torch.cat([first, cells * cosines + torch.cat([-right, left], dim=3) * sines], dim=2)


class _Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return projected


class _SwiGlu(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w1, self.w2, self.w3 = nn.Linear(width, hidden), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.w3(functional.silu(self.w1(x)) * self.w2(x))
        return projected


class _Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class _TextBackbone(nn.Module):
    def __init__(self, words: int, length: int, width: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(words, width)
        self.positional_embedding = nn.Parameter(torch.zeros(length, width))
        self.blocks = nn.ModuleList(_TextBlock(width, hidden) for _ in range(depth))
        self.ln_final = nn.LayerNorm(width)

    def forward(self, numbers: Tensor) -> Tensor:
        x = self.token_embedding(numbers) + self.positional_embedding[: numbers.shape[1]]
        for block in self.blocks:
            x = block(x)
        normed: Tensor = self.ln_final(x)
        return normed


class _TextBlock(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.attention_norm, self.ffn_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = _Attention(width, qkv_bias=False, causal=True)
        self.feed_forward = _Mlp(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        added: Tensor = x + self.feed_forward(self.ffn_norm(x))
        return added


class _TextHead(nn.Module):
    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.linear_projection = nn.Linear(width, outputs, bias=False)


def _depth(state: Mapping[str, Tensor]) -> int:
    return 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks."))
