"""Identity codes: one vector for each class, orthogonal or trained apart (Eq. 8–10 of Joseph et al.).

In the operator's terms codes are a linear codec of one-hot labels: encoded before accumulation, so that N × d values
are stored and not N × C, and decoded to the logits of a linear classifier.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import save_file
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped] # comes with scikit-learn
from torch import Tensor

from feature_gs_ros.core.cache_folder import cache_folder
from feature_gs_ros.core.codec import Codec
from feature_gs_ros.core.errors import IdentityError
from feature_gs_ros.io.atomic import atomic_path
from feature_gs_ros.io.tensors import load_tensors

CodeKind = Literal["orthogonal", "contrastive"]
Array = NDArray[np.float32]

CONTRASTIVE_DIMENSION = 16  # d of the paper
MAX_CLASSES = 4096
COINCIDING = 5.0  # degrees under which two codes can't be told apart once they are mixed with others
STEPS = 4000  # at up to MANY classes, fewer beyond: 200 codes come 67° apart in a second, 60° in a tenth of it
MANY = 256
LEARNING_RATE = 0.1
SHARPNESS = (
    10.0  # scale of the classifier's logits: keeps the cross-entropy separating classes that are already separable
)
VERSION = 2  # of the training: codes cached by another one are trained anew


@dataclass(frozen=True, eq=False)
class CodeBook:
    """Codes of C classes and the linear classifier that reads them."""

    kind: CodeKind
    codes: Tensor  # [C, d], rows of length 1
    classifier: Tensor  # [C, d]; the logits of a code z are ``classifier @ z``

    def __len__(self) -> int:
        return self.codes.shape[0]

    @property
    def dimension(self) -> int:
        """d."""
        return self.codes.shape[1]

    @property
    def one_hot(self) -> bool:
        """Whether class k is channel k, so that features are the classes' fractions themselves."""
        return self.codes.shape[0] == self.codes.shape[1] and torch.equal(self.codes, torch.eye(len(self)))

    @property
    def smallest_angle(self) -> float:
        """Between two codes, in degrees; 180 where there is only one."""
        if len(self) == 1:
            return 180.0
        cosines = self.codes @ self.codes.T
        cosines.fill_diagonal_(-1.0)
        return float(torch.rad2deg(torch.arccos(cosines.max().clamp(-1.0, 1.0))))

    @property
    def margin(self) -> float:
        """Least difference, over the classes, between the right logit of a code and the best wrong one."""
        if len(self) == 1:
            return float("inf")
        logits = self.codes @ self.classifier.T
        right = logits.diagonal().clone()
        logits.fill_diagonal_(float("-inf"))
        return float((right - logits.amax(dim=1)).min())

    def codec(self) -> Codec | None:
        """One-hot labels [..., C] to codes and back to logits; None where the labels are stored as they are."""
        if self.one_hot:
            return None
        return Codec("codes", self.codes.T.contiguous(), self.classifier.T.contiguous(), torch.zeros(len(self)))


def make_codes(
    kind: str, classes: int, dimension: int | None = None, *, seed: int = 0, cache: Path | None = None
) -> CodeBook:
    """Codes by name.

    Args:
        kind: "orthogonal" or "contrastive".
        dimension: d; the number of classes for orthogonal codes, 16 for contrastive ones by default.
        cache: folder of trained codes; the user's by default.

    Raises:
        IdentityError: unknown kind, too many classes, or codes that coincide.
    """
    if kind not in get_args(CodeKind):
        raise IdentityError(
            f"codes '{kind}' are unknown; choose {' or '.join(get_args(CodeKind))}", code="identity.unknown"
        )
    if kind == "orthogonal":
        return orthogonal_codes(classes, dimension, seed=seed)
    dimension = CONTRASTIVE_DIMENSION if dimension is None else dimension
    return contrastive_codes(classes, dimension, seed=seed, cache=cache)


def orthogonal_codes(classes: int, dimension: int | None = None, *, seed: int = 0) -> CodeBook:
    """One-hot rows where d = C, else orthonormal rows in random directions; the classifier is the codes themselves.

    Raises:
        IdentityError: more classes than dimensions.
    """
    dimension = classes if dimension is None else dimension
    _check_counts(classes, dimension)
    if classes > dimension:
        raise IdentityError(
            f"{classes} classes can't have orthogonal codes of {dimension} channels: at most {dimension} vectors are "
            f"orthogonal there; store {classes} channels, or use contrastive codes",
            code="identity.range",
        )
    if classes == dimension:
        codes = torch.eye(classes)
    else:
        generator = torch.Generator().manual_seed(seed)
        basis, _ = torch.linalg.qr(torch.randn(dimension, classes, generator=generator, dtype=torch.float64))
        codes = basis.T.float().contiguous()
    return CodeBook("orthogonal", codes, codes)


def contrastive_codes(
    classes: int, dimension: int = CONTRASTIVE_DIMENSION, *, seed: int = 0, cache: Path | None = None
) -> CodeBook:
    """Codes trained apart, once for a (C, d, seed), then read from the cache.

    Args:
        cache: folder; ``$XDG_CACHE_HOME/feature_gs_ros/codes`` by default.

    Raises:
        IdentityError: two codes coincide: too many classes for so few dimensions.
    """
    _check_counts(classes, dimension)
    path = (cache or cache_folder("codes")) / f"contrastive-v{VERSION}-{classes}x{dimension}-{seed}.safetensors"
    book = _cached(path, classes, dimension)
    if book is None:
        book = train_codes(classes, dimension, seed)
        _remember(path, book)
    angle = book.smallest_angle
    if angle < COINCIDING:
        raise IdentityError(
            f"of {classes} codes of {dimension} channels two coincide ({angle:.1f}° apart, at least {COINCIDING:.0f}° "
            "needed); give more dimensions",
            code="identity.coinciding",
        )
    return book


@threadpool_limits.wrap(limits=1)  # type: ignore[untyped-decorator] # BLAS: threads slow such small matrices down
def train_codes(classes: int, dimension: int, seed: int = 0, steps: int | None = None) -> CodeBook:
    """Minimise cross-entropy(classifier · E) + ‖E Eᵀ − I‖_F² / C over E [C, d] with rows of length 1.

    The second term alone spreads rows as a tight frame, in which some may coincide once C > d; the first one forbids
    that. Its logits are ``SHARPNESS · ⟨row of the classifier, code⟩``. The sum over the classes is taken as a mean in
    both terms, which keeps one learning rate for any C.

    The smallest angle still grows when the loss hardly falls: there are more steps than the loss alone would need.
    The gradients are written out: matrices this small spend more time in a framework's threads than in arithmetic.
    """
    steps = steps or max(STEPS // 4, int(STEPS * min(1.0, MANY / classes)))
    start = np.random.default_rng(seed).standard_normal((classes, dimension), dtype=np.float32)
    if classes > dimension:
        start = np.linalg.qr(start)[0]  # a tight frame: the second term's own minimum, from which the first separates
    parameters = [start.copy(), start.copy()]  # of the codes and of the classifier, before their rows are normalised
    means = [np.zeros_like(start) for _ in parameters]
    squares = [np.zeros_like(start) for _ in parameters]
    for step in range(1, steps + 1):
        rate = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))
        for index, gradient in enumerate(gradients(*parameters)):  # Adam
            means[index] += 0.1 * (gradient - means[index])
            squares[index] += 0.001 * (gradient**2 - squares[index])
            mean, square = means[index] / (1 - 0.9**step), squares[index] / (1 - 0.999**step)
            parameters[index] -= rate * mean / (np.sqrt(square) + 1e-8)
    codes, classifier = (_unit_rows(values)[0] for values in parameters)
    return CodeBook("contrastive", torch.from_numpy(codes), torch.from_numpy(SHARPNESS * classifier))


def gradients(embedding: Array, classifier: Array) -> tuple[Array, Array]:  # [C, d] each
    """Of the loss by both parameters, through the normalisation of their rows."""
    codes, code_lengths = _unit_rows(embedding)
    rows, row_lengths = _unit_rows(classifier)
    diagonal = np.arange(len(codes))
    errors = SHARPNESS * codes @ rows.T
    errors -= errors.max(axis=1, keepdims=True)
    np.exp(errors, out=errors)
    errors /= errors.sum(axis=1, keepdims=True)
    errors[diagonal, diagonal] -= 1.0  # ∂ cross-entropy / ∂ logits, C times
    gram = codes @ codes.T
    gram[diagonal, diagonal] -= 1.0
    scale = 1.0 / len(codes)
    by_codes = scale * (SHARPNESS * errors @ rows + 4.0 * gram @ codes)
    by_rows = scale * SHARPNESS * errors.T @ codes
    return _through_unit(by_codes, codes, code_lengths), _through_unit(by_rows, rows, row_lengths)


def _unit_rows(values: Array) -> tuple[Array, Array]:
    lengths = np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    return values / lengths, lengths


def _through_unit(gradient: Array, unit: Array, lengths: Array) -> Array:
    through: Array = (gradient - (gradient * unit).sum(axis=1, keepdims=True) * unit) / lengths
    return through


def _check_counts(classes: int, dimension: int) -> None:
    if not 1 <= classes <= MAX_CLASSES:
        raise IdentityError(f"{classes} classes can't be encoded; 1 to {MAX_CLASSES} can", code="identity.range")
    if not 1 <= dimension <= MAX_CLASSES:
        raise IdentityError(
            f"codes of {dimension} channels can't be made; 1 to {MAX_CLASSES} can", code="identity.range"
        )


def _cached(path: Path, classes: int, dimension: int) -> CodeBook | None:
    """Codes of an earlier run; None where there are none, or a file that isn't what its name says."""
    try:
        tensors, _ = load_tensors(path)
    except (OSError, SafetensorError, ValueError):
        return None
    codes, classifier = tensors.get("codes"), tensors.get("classifier")
    for tensor in (codes, classifier):
        if tensor is None or tuple(tensor.shape) != (classes, dimension) or not bool(torch.isfinite(tensor).all()):
            return None
    assert codes is not None
    assert classifier is not None
    return CodeBook("contrastive", codes, classifier)


def _remember(path: Path, book: CodeBook) -> None:
    try:
        with atomic_path(path) as temporary:
            save_file({"codes": book.codes, "classifier": book.classifier}, temporary)
    except OSError:
        pass  # a read-only home: the next run trains again
