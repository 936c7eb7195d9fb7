"""The speed-up module of Feature 3DGS: a 1×1 convolution lifts a few rendered channels to the teacher's."""

from __future__ import annotations

import torch
from torch import Tensor

from feature_gs_ros.core.codec import Codec
from feature_gs_ros.core.errors import FieldError
from feature_gs_ros.numerics.device import HOST


class Decoder:
    """``f = z B + b`` with B [K, D] and b [D], trained with the codes; at single cells a 1×1 convolution is this."""

    def __init__(self, basis: Tensor, bias: Tensor) -> None:
        self.basis = basis.detach().float().clone().requires_grad_()  # [K, D]
        self.bias = bias.detach().float().clone().requires_grad_()  # [D]

    @staticmethod
    def of_codec(codec: Codec) -> Decoder:
        """Begin where a linear codec is: a PCA of the teacher's cells is close already."""
        return Decoder(codec.decoder, codec.mean)

    def move_to(self, device: torch.device) -> None:
        """Train on a device from now on."""
        self.basis = self.basis.detach().to(device).requires_grad_()
        self.bias = self.bias.detach().to(device).requires_grad_()

    @property
    def teacher_dimension(self) -> int:
        return self.basis.shape[1]

    @property
    def dimension(self) -> int:
        return self.basis.shape[0]

    def __call__(self, codes: Tensor) -> Tensor:
        """Codes [..., K] to features [..., D]."""
        return codes @ self.basis + self.bias

    def codec(self) -> Codec:
        """As a field stores it; encoding is the least-squares inverse."""
        basis, bias = (tensor.detach().to(HOST, copy=True) for tensor in (self.basis, self.bias))
        return Codec("decoder", torch.linalg.pinv(basis).T.contiguous(), basis, bias)

    def check(self, teacher_dimension: int) -> None:
        """Raise a FieldError unless it decodes to the teacher's dimension."""
        if self.teacher_dimension != teacher_dimension:
            raise FieldError(
                f"the decoder lifts to {self.teacher_dimension} dimensions, the teacher has {teacher_dimension}: "
                "use the teacher that the decoder was trained with, or train a new one",
                code="field.shape",
            )
