"""Inner products of many features with a few vectors, and log-sum-exp, as fast as the features can be read."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from feature_gs_ros.numerics.device import in_torch
from feature_gs_ros.numerics.runtime import kernel, parallel_for
from feature_gs_ros.numerics.simd import SIZE, broadcast, load, maximum, store, total

LOG2_E = np.float32(math.log2(math.e))
# 2^x for x in [-1/2, 1/2], the minimax polynomial's relative error is below 1e-6
EXP2 = tuple(np.float32(c) for c in (1.0, 0.69314718, 0.24022651, 0.05550411, 0.00961813, 0.00133336, 0.000154035))
MIN_EXPONENT = np.float32(-126.0)  # of a normal float32
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


def affine_products(codes: Tensor, others: Tensor, offsets: Tensor) -> Tensor:  # [M, K], [P, K], [P] -> [M, P]
    """``codes · others + offsets``, float32, of codes in float32 or in whole numbers of eight bits."""
    if codes.dtype != torch.int8 or not codes.is_contiguous() or in_torch(codes.device):
        return inner_products(codes.to(torch.float32), others).add_(offsets)
    products = torch.empty(len(codes), len(others))
    arrays = codes.numpy(), others.contiguous().numpy(), offsets.numpy(), products.numpy()
    parallel_for(len(codes), 8192, lambda first, last: _affine_products(first, last, *arrays))
    return products


@kernel
def _affine_products(start, stop, codes, others, offsets, products):
    """Rows ``start`` to ``stop``: a row of codes becomes floats once, for all the vectors."""
    dimension = codes.shape[1]
    values = np.empty(dimension, np.float32)
    for row in range(start, stop):
        own = codes[row]
        for k in range(dimension):
            values[k] = own[k]
        for column in range(others.shape[0]):
            other, product = others[column], np.float32(0)
            for k in range(dimension):
                product += values[k] * other[k]
            products[row, column] = product + offsets[column]


def log_sum_exp(features: Tensor) -> Tensor:  # [M, D] -> [M]
    """``log Σ_k exp(f_k)`` of each row, float32, to 1e-6 of it; torch takes three passes and a copy of the features."""
    if features.dtype != torch.float32 or not features.is_contiguous() or in_torch(features.device):
        return torch.logsumexp(features.float(), dim=1)
    sums = torch.empty(len(features))
    arrays = features.detach().numpy(), sums.numpy()
    parallel_for(len(features), 2048, lambda first, last: _log_sum_exp(first, last, *arrays))
    return sums


@kernel
def _log_sum_exp(start, stop, features, sums):
    """Rows ``start`` to ``stop``; the compiler makes vectors of the plain loops, but not of a maximum."""
    dimension, flat, lanes = features.shape[1], features.reshape(-1), np.empty(SIZE, np.float32)
    exponents = np.empty(dimension, np.int32)
    powers, mantissas = exponents.view(np.float32), np.empty(dimension, np.float32)
    for row in range(start, stop):
        values, peaks = features[row], broadcast(features[row, 0])
        for k in range(0, dimension - SIZE + 1, SIZE):
            peaks = maximum(peaks, load(flat, row * dimension + k))
        store(lanes, 0, peaks)
        peak = values[0]
        for lane in range(SIZE):
            peak = max(peak, lanes[lane])
        for k in range(dimension - dimension % SIZE, dimension):
            peak = max(peak, values[k])
        for k in range(dimension):
            x = max((values[k] - peak) * LOG2_E, MIN_EXPONENT)
            whole = np.floor(x + np.float32(0.5))
            x -= whole
            even = EXP2[0] + x * x * (EXP2[2] + x * x * (EXP2[4] + x * x * EXP2[6]))
            odd = EXP2[1] + x * x * (EXP2[3] + x * x * EXP2[5])
            mantissas[k] = even + x * odd
            exponents[k] = (np.int32(whole) + np.int32(127)) << 23  # the bits of 2^whole
        summed = np.float32(0)
        for k in range(dimension):
            summed += mantissas[k] * powers[k]
        sums[row] = peak + np.log(summed)


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
