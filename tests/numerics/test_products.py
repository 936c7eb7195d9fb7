"""Sums over rows of features, against torch in double precision."""

from __future__ import annotations

import pytest
import torch

from feature_gs_ros.numerics.products import affine_products, log_sum_exp


@pytest.mark.parametrize("channels", [1, 3, 16, 37, 1000])
@pytest.mark.parametrize("spread", [0.0, 1.0, 300.0])
def test_log_sum_exp(channels: int, spread: float) -> None:
    features = spread * torch.randn(5000, channels, generator=torch.Generator().manual_seed(channels))
    expected = torch.logsumexp(features.double(), dim=1)
    torch.testing.assert_close(log_sum_exp(features).double(), expected, rtol=2e-6, atol=2e-6)


def test_log_sum_exp_of_other_layouts_is_the_same() -> None:
    features = torch.randn(50, 40)
    expected = log_sum_exp(features)
    torch.testing.assert_close(log_sum_exp(features.T.contiguous().T), expected)
    torch.testing.assert_close(log_sum_exp(features.half()), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("channels", "vectors"), [(1, 1), (37, 3), (64, 12)])
def test_affine_products_of_whole_numbers(channels: int, vectors: int) -> None:
    generator = torch.Generator().manual_seed(channels)
    codes = torch.randint(-127, 128, (20_000, channels), generator=generator).to(torch.int8)
    others, offsets = torch.randn(vectors, channels, generator=generator), torch.randn(vectors, generator=generator)
    expected = codes.double() @ others.double().T + offsets.double()
    for given in (codes, codes.float(), codes.T.contiguous().T):
        torch.testing.assert_close(affine_products(given, others, offsets).double(), expected, atol=2e-3, rtol=1e-4)
