"""Inner products of many features with a few vectors, as fast as the features can be read."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from feature_gs_ros.numerics.device import in_torch
from feature_gs_ros.numerics.runtime import kernel, parallel_for
from feature_gs_ros.numerics.simd import SIZE, broadcast, load, total

MAX_VECTORS = 4  # vectors; more are a matrix product, in which torch is at home


def inner_products(features: Tensor, others: Tensor) -> Tensor:  # [M, D], [P, D] -> [M, P]
    """``features · others``, float32. For one vector torch takes a third more time than reading the features does."""
    plain = all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in (features, others))
    if len(others) > MAX_VECTORS or not plain or in_torch(features.device):
        return functional.linear(features, others)
    products = torch.empty(len(features), len(others))
    arrays = (features.detach().numpy(), others.detach().numpy(), products.numpy())
    parallel_for(len(features), 8192, lambda first, last: _products(first, last, *arrays))
    return products


@kernel
def _products(start, stop, features, others, products):
    """``products[start:stop] = features[start:stop] · othersᵀ``; sums of vectors, whose lanes add up last."""
    dimension, flat, vectors = features.shape[1], features.reshape(-1), others.reshape(-1)
    whole, fours = dimension - dimension % SIZE, dimension - dimension % (4 * SIZE)
    for row in range(start, stop):
        for column in range(others.shape[0]):
            mine, other = row * dimension, column * dimension
            none = broadcast(0.0)
            a, b, c, d = none, none, none, none  # four sums: one would wait for itself
            for k in range(0, fours, 4 * SIZE):
                a += load(flat, mine + k) * load(vectors, other + k)
                b += load(flat, mine + k + SIZE) * load(vectors, other + k + SIZE)
                c += load(flat, mine + k + 2 * SIZE) * load(vectors, other + k + 2 * SIZE)
                d += load(flat, mine + k + 3 * SIZE) * load(vectors, other + k + 3 * SIZE)
            for k in range(fours, whole, SIZE):
                a += load(flat, mine + k) * load(vectors, other + k)
            product = total((a + b) + (c + d))
            for k in range(whole, dimension):
                product += flat[mine + k] * vectors[other + k]
            products[row, column] = product
