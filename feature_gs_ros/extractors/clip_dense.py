"""From a CLIP image tower's pooled vector to a grid: every cell into the space of image and text, at any input size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from feature_gs_ros.core.errors import ExtractorError
from feature_gs_ros.extractors.network import resized_positions

CONVOLUTIONAL_STRIDE = 32


def cell_size(visual: nn.Module) -> int:
    """Input pixels a cell of this tower; the input's sides must be multiples of it."""
    patch: Any = getattr(visual, "patch_size", None)
    if patch is None:
        patch = getattr(getattr(getattr(visual, "trunk", None), "patch_embed", None), "patch_size", None)
    return int(patch[0]) if isinstance(patch, tuple) else CONVOLUTIONAL_STRIDE


def dense_features(visual: Any, pixels: Tensor, value_path: bool) -> Tensor:
    """Features [B, rows, columns, D] of every cell, not normalised.

    Args:
        visual: image tower of open_clip: its ViT, its ResNet, or one of timm's.
        pixels: [B, 3, H, W], normalised, sides multiples of `cell_size`.
        value_path: of the last attention, the values alone (MaskCLIP): what a cell says, not what it looks for. For
            towers that pool by attention both paths are that; those that pool by a mean have the plain one only.

    Raises:
        ExtractorError: the tower has no cells that could be projected one by one.
    """
    kind = type(visual).__name__
    if kind == "VisionTransformer" and visual.attn_pool is None and visual.proj is not None:
        return _vision_transformer(visual, pixels, value_path)
    if kind == "ModifiedResNet":
        maps = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(pixels)))))
        pool = visual.attnpool
        projected: Tensor = pool.c_proj(pool.v_proj(maps.permute(0, 2, 3, 1)))
        return projected
    if kind == "TimmModel":
        return _timm_tower(visual, pixels, visual.trunk.forward_features)
    raise ExtractorError(
        f"dense features of open_clip's {kind} with this pooling are not known; choose a ViT without it",
        code="extractor.unsupported",
    )


def _vision_transformer(visual: Any, pixels: Tensor, value_path: bool) -> Tensor:
    cells = visual.conv1(pixels)
    rows, columns = cells.shape[2:]
    tokens = cells.flatten(2).transpose(1, 2)
    first = visual.class_embedding.expand(len(tokens), 1, -1)
    positions = resized_positions(visual.positional_embedding, rows, columns, mode="bicubic", antialias=True)
    x = visual.ln_pre(torch.cat([first, tokens], dim=1) + positions.to(tokens.dtype))
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        x = block(x)
    x = dense_values(last, x) if value_path else last(x)
    projected: Tensor = visual.ln_post(x[:, 1:]) @ visual.proj
    return projected.reshape(len(projected), rows, columns, -1)


def dense_values(block: Any, x: Tensor) -> Tensor:
    """The attention's values through its output projection, every token its own: no keys, no queries, no residual.

    Adding the block's input or passing its MLP blurs the cells, as users of MaskCLIP found.
    """
    attention = block.attn
    if attention.in_proj_weight is None:
        raise ExtractorError(
            "this model's attention has separate projections; choose path=plain", code="extractor.unsupported"
        )
    width = attention.in_proj_weight.shape[1]
    bias = None if attention.in_proj_bias is None else attention.in_proj_bias[2 * width :]
    values = functional.linear(block.ln_1(x), attention.in_proj_weight[2 * width :], bias)
    out: Tensor = attention.out_proj(values)
    return out


def last_values(visual: Any, pixels: Tensor) -> Tensor:
    """As `dense_features`, of a timm ViT that pools by attention (SigLIP), the last block's values in place of it all.

    Raises:
        ExtractorError: the tower is another.
    """
    trunk = getattr(visual, "trunk", None)
    if trunk is None or not hasattr(trunk, "blocks") or not hasattr(trunk, "patch_embed"):
        raise ExtractorError(
            f"the last block's values of open_clip's {type(visual).__name__} are not known; path=plain",
            code="extractor.unsupported",
        )

    def features(pixels: Tensor) -> Tensor:
        x = trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(pixels))))
        *blocks, last = trunk.blocks
        for block in blocks:
            x = block(x)
        attention, width = last.attn, x.shape[2]
        bias = None if attention.qkv.bias is None else attention.qkv.bias[2 * width :]
        values = functional.linear(last.norm1(x), attention.qkv.weight[2 * width :], bias)
        normed: Tensor = trunk.norm(last.ls1(attention.proj(values)))
        return normed

    return _timm_tower(visual, pixels, features)


def _timm_tower(visual: Any, pixels: Tensor, forward_features: Callable[[Tensor], Tensor]) -> Tensor:
    """Every cell pooled and projected as if it were alone: an attention over one cell is its value path."""
    trunk = visual.trunk
    if getattr(trunk, "rope", None) is not None:
        raise ExtractorError(
            "EVA's rotary positions are fixed to one square size in open_clip; choose another model",
            code="extractor.unsupported",
        )
    _allow_any_size(trunk)
    features = forward_features(pixels)
    if features.dim() == 4:  # convolutional: [B, C, h, w]
        batch, channels, rows, columns = features.shape
        alone = features.permute(0, 2, 3, 1).reshape(-1, channels, 1, 1)
    elif features.dim() == 3 and hasattr(trunk, "patch_embed"):  # tokens: [B, prefix + cells, C]
        patch = cell_size(visual)
        batch, rows, columns = len(features), pixels.shape[2] // patch, pixels.shape[3] // patch
        alone = features[:, trunk.num_prefix_tokens :].reshape(batch * rows * columns, 1, -1)
    else:
        raise ExtractorError(
            f"dense features of timm's {type(trunk).__name__} are not known; choose a ViT or ConvNeXt",
            code="extractor.unsupported",
        )
    projected: Tensor = visual.head(trunk.forward_head(alone))
    return projected.reshape(batch, rows, columns, -1)


def _allow_any_size(trunk: Any) -> None:
    """What timm sets for ``dynamic_img_size=True``, which open_clip has no option for."""
    if hasattr(trunk, "dynamic_img_size") and not trunk.dynamic_img_size:
        trunk.dynamic_img_size = True
        trunk.patch_embed.strict_img_size = False
        trunk.patch_embed.flatten = False
        trunk.patch_embed.output_fmt = type(trunk.patch_embed.output_fmt)("NHWC")
