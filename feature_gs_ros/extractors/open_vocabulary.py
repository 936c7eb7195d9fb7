"""What extractors of a space of image and text share: scores beside generic words, and judging whole images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from feature_gs_ros.core.camera import Image
from feature_gs_ros.extractors.base import Judgement

# The words that a prompt is held against in whole images: what stands in homes, offices and workshops.
RIVALS = (
    "apple", "backpack", "bag", "ball", "banana", "basket", "battery", "bed", "belt", "blanket",
    "book", "bottle", "bowl", "box", "bread", "broom", "brush", "bucket", "cable", "calculator",
    "camera", "can", "candle", "card", "carpet", "carton", "cat", "chair", "clock", "cloth",
    "coat", "coin", "computer mouse", "cup", "curtain", "cushion", "dish", "dog", "door", "drawer",
    "drill", "egg", "envelope", "eraser", "fan", "faucet", "flashlight", "floor", "flower", "fork",
    "fruit", "glasses", "glove", "glue", "guitar", "hammer", "hand", "handle", "hat", "headphones",
    "helmet", "hose", "jar", "jug", "kettle", "key", "keyboard", "knife", "ladder", "lamp",
    "laptop", "lemon", "lid", "lighter", "loudspeaker", "magnet", "marker", "microphone", "microscope", "microwave",
    "mirror", "monitor", "mug", "nail", "newspaper", "notebook", "orange", "oven", "pan", "paper",
    "pen", "pencil", "person", "phone", "pillow", "pill bottle", "pipe", "plant", "plate", "pliers",
    "pot", "printer", "purse", "radio", "razor", "refrigerator", "remote control", "robot", "rope", "ruler",
    "saw", "scissors", "screw", "screwdriver", "shelf", "shirt", "shoe", "sink", "soap", "sock",
    "sofa", "spoon", "spray can", "stapler", "stethoscope", "suitcase", "syringe", "table", "tape", "teapot",
    "television", "tie", "toaster", "toilet", "tool", "toothbrush", "towel", "toy", "tray", "umbrella",
    "vase", "wall", "wallet", "watch", "water bottle", "wheel", "window", "wine bottle", "wire", "wrench",
)  # fmt: skip
MIN_KIN_COSINE = 0.4  # of two words' embeddings, less the mean of all, from which they are near-synonyms


def beside_generic(cosines: Tensor, generic: Tensor, scale: float) -> Tensor:
    """Probability of each prompt beside the generic words: ``exp(t c) / (exp(t c) + Σ_g exp(t c_g))``.

    Prompts don't change each other's probabilities. A bias that the model adds to every logit cancels.

    Args:
        cosines: [M, P] of the prompts, c.
        generic: [M, G] of the generic words, c_g.
        scale: the model's temperature t.
    """
    return torch.sigmoid(scale * cosines - torch.logsumexp(scale * generic, dim=1, keepdim=True))


def judge_by_words(
    encode_images: Callable[[Sequence[Image]], Tensor],
    embed: Callable[[Sequence[str]], Tensor],
    scale: float,
    images: Sequence[Image],
    prompt: str,
) -> Judgement:
    """Hold a prompt against `RIVALS` in whole images: a softmax of cosines at the model's temperature.

    Rivals whose embeddings, less the mean of all, point nearly the prompt's way ("cup" beside "mug") are kin.

    Args:
        encode_images: images to unit embeddings [B, D].
        embed: words to unit embeddings [W, D], all put into the same sentence.
        scale: the model's temperature.
    """
    rivals = tuple(word for word in RIVALS if word.casefold() != prompt.strip().casefold())
    embeddings = embed((prompt, *rivals))
    logits = scale * encode_images(images).float().cpu() @ embeddings.T
    centred = functional.normalize(embeddings - embeddings[1:].mean(dim=0), dim=1)
    kin = centred @ centred[0] >= MIN_KIN_COSINE
    kin[0] = False
    return Judgement(torch.log_softmax(logits, dim=1), (prompt, *rivals), kin)
