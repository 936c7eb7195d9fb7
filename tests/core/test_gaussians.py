"""GaussianMap: validation on entry, selection, identity."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from feature_gs_ros.core.errors import MapError
from feature_gs_ros.core.gaussians import ABSURD_SCALE_RATIO, SH_C0, GaussianMap
from tests.errors import raises


def tensors(count: int = 10, coefficients: int = 4) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    return {
        "means": torch.randn(count, 3, generator=draw),
        "quats_wxyz": torch.randn(count, 4, generator=draw),
        "scales": torch.rand(count, 3, generator=draw) * 0.1 + 0.01,
        "opacities": torch.rand(count, generator=draw),
        "sh": torch.randn(count, coefficients, 3, generator=draw),
    }


@pytest.mark.parametrize(("coefficients", "degree"), [(1, 0), (4, 1), (9, 2), (16, 3)])
def test_a_sound_map_keeps_every_value(coefficients: int, degree: int) -> None:
    given_values = tensors(coefficients=coefficients)
    gaussians = GaussianMap.from_tensors(**given_values)
    assert len(gaussians) == 10
    assert gaussians.sh_degree == degree
    for name in ("means", "scales", "opacities", "sh"):
        torch.testing.assert_close(getattr(gaussians, name), given_values[name], rtol=0, atol=0)
    torch.testing.assert_close(gaussians.quats_wxyz, torch.nn.functional.normalize(given_values["quats_wxyz"]))
    assert gaussians.kept_rows is None
    assert gaussians.dropped.total == 0
    assert gaussians.file_rows.tolist() == list(range(10))


@pytest.mark.parametrize("name", ["means", "quats_wxyz", "scales", "opacities", "sh"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_is_dropped_and_counted(name: str, value: float) -> None:
    values = tensors()
    values[name][4].view(-1)[-1] = value
    gaussians = GaussianMap.from_tensors(**values)
    assert gaussians.dropped.not_finite == gaussians.dropped.total == 1
    assert gaussians.kept_rows is not None
    assert gaussians.kept_rows.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    torch.testing.assert_close(gaussians.means, tensors()["means"][gaussians.kept_rows], rtol=0, atol=0)


def test_each_reason_is_counted_once() -> None:
    values = tensors()
    values["quats_wxyz"][0] = 0
    values["scales"][1, 0] = 0
    values["scales"][2, 1] = -0.1
    values["scales"][3, 2] = ABSURD_SCALE_RATIO * 100
    values["quats_wxyz"][4] = 0
    values["means"][4] = math.nan
    dropped = GaussianMap.from_tensors(**values).dropped
    assert (dropped.not_finite, dropped.zero_quaternion, dropped.absurd_scale) == (1, 1, 3)
    assert "5 dropped (1 not finite, 1 zero quaternion, 3 absurd scale)" in str(dropped)


def test_a_scale_is_absurd_relative_to_the_maps_radius() -> None:
    values = tensors(101)
    values["means"] = torch.zeros(101, 3)
    values["means"][:, 0] = torch.arange(-50, 51)  # median distance from the centre: 25
    values["scales"][7] = ABSURD_SCALE_RATIO * 25 * 0.99
    values["scales"][8] = ABSURD_SCALE_RATIO * 25 * 1.01
    gaussians = GaussianMap.from_tensors(**values)
    assert gaussians.dropped.absurd_scale == 1
    assert 7 in gaussians.file_rows
    assert 8 not in gaussians.file_rows


def test_one_gaussian_alone_is_a_map() -> None:
    assert len(GaussianMap.from_tensors(**tensors(1))) == 1


@pytest.mark.parametrize("length", [1e-6, 1.0, 3e38])
def test_a_quaternion_of_any_length_becomes_unit(length: float) -> None:
    values = tensors(1)
    values["quats_wxyz"] = torch.tensor([[1.0, -1.0, 1.0, 1.0]]) * length
    torch.testing.assert_close(
        GaussianMap.from_tensors(**values).quats_wxyz, torch.tensor([[0.5, -0.5, 0.5, 0.5]]), rtol=0, atol=1e-7
    )


def test_opacities_are_clamped_to_0_and_1() -> None:
    values = tensors(3)
    values["opacities"] = torch.tensor([-0.5, 0.25, 1.5])
    assert GaussianMap.from_tensors(**values).opacities.tolist() == [0.0, 0.25, 1.0]


def test_doubles_beyond_float32_are_dropped() -> None:
    values = {name: tensor.double() for name, tensor in tensors().items()}
    values["means"][2, 0] = 1e300
    gaussians = GaussianMap.from_tensors(**values)
    assert gaussians.dropped.not_finite == 1
    assert all(getattr(gaussians, name).dtype == torch.float32 for name in values)


def test_a_map_takes_no_gradient_from_a_trainers_parameters() -> None:
    values = {name: torch.nn.Parameter(tensor) for name, tensor in tensors().items()}
    assert not GaussianMap.from_tensors(**values).means.requires_grad


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("means", (10,)),
        ("means", (10, 2)),
        ("means", (9, 3)),
        ("quats_wxyz", (10, 3)),
        ("scales", (10, 2)),
        ("opacities", (10, 1)),
        ("sh", (10, 3)),
        ("sh", (10, 5, 3)),
        ("sh", (10, 25, 3)),
        ("sh", (10, 4, 4)),
        ("sh", (9, 4, 3)),
    ],
)
def test_a_wrong_shape_is_named(name: str, shape: tuple[int, ...]) -> None:
    values = tensors()
    values[name] = torch.ones(shape)
    with raises("map.shape", "kitchen.ply"):
        GaussianMap.from_tensors(**values, source="'kitchen.ply'")


def test_no_gaussians_or_none_of_use_is_an_error() -> None:
    with raises("map.empty"):
        GaussianMap.from_tensors(**{name: tensor[:0] for name, tensor in tensors().items()})
    values = tensors()
    values["means"][:] = math.nan
    with raises("map.empty", "10"):
        GaussianMap.from_tensors(**values)


def test_parameters_of_a_trainer_are_logs_and_logits() -> None:
    values = tensors(2)
    log_scales = torch.tensor([[0.0, math.log(2), -1.0], [-3.0, -3.0, -3.0]])
    gaussians = GaussianMap.from_parameters(
        values["means"], values["quats_wxyz"], log_scales, torch.tensor([0.0, math.log(3)]), values["sh"]
    )
    torch.testing.assert_close(gaussians.scales[0], torch.tensor([1.0, 2.0, math.exp(-1)]))
    torch.testing.assert_close(gaussians.opacities, torch.tensor([0.5, 0.75]))


def test_parameters_that_overflow_are_dropped_not_infinite() -> None:
    values = tensors()
    log_scales, logits = torch.full((10, 3), -4.0), torch.zeros(10)
    log_scales[0, 0], log_scales[1, 1], log_scales[2, 2] = 1000, -1000, math.nan
    logits[3], logits[4], logits[5] = math.inf, -math.inf, math.nan
    gaussians = GaussianMap.from_parameters(values["means"], values["quats_wxyz"], log_scales, logits, values["sh"])
    assert gaussians.file_rows.tolist() == [3, 4, 6, 7, 8, 9]
    assert gaussians.opacities[:2].tolist() == [1.0, 0.0]


def test_select_follows_the_rows_of_the_file() -> None:
    values = tensors()
    values["means"][0] = math.nan
    gaussians = GaussianMap.from_tensors(**values)  # rows 1..9
    mask = torch.zeros(9, dtype=torch.bool)
    mask[[2, 5]] = True
    chosen = gaussians.select(mask)
    assert chosen.file_rows.tolist() == [3, 6]
    torch.testing.assert_close(chosen.sh, values["sh"][[3, 6]], rtol=0, atol=0)
    assert chosen.select(torch.tensor([1])).file_rows.tolist() == [6]


def test_the_first_coefficients_constant_is_that_of_the_sphere() -> None:
    assert math.isclose(SH_C0**2 * 4 * math.pi, 1, rel_tol=1e-15)


def test_checksum_sees_geometry_and_opacity_but_no_colour() -> None:
    base = GaussianMap.from_tensors(**tensors()).checksum
    for name in ("means", "quats_wxyz", "scales", "opacities"):
        values = tensors()
        values[name][3].view(-1)[0] *= 1.001
        assert GaussianMap.from_tensors(**values).checksum != base, name
    values = tensors()
    values["means"][3, 0] = torch.nextafter(values["means"][3, 0], torch.tensor(9.0))
    assert GaussianMap.from_tensors(**values).checksum != base
    values = tensors()
    values["sh"] += 1
    assert GaussianMap.from_tensors(**values).checksum == base
    order = torch.arange(9, -1, -1)
    assert GaussianMap.from_tensors(**{k: v[order] for k, v in tensors().items()}).checksum != base


def test_checksum_is_the_same_on_a_processor_whose_exp_differs_in_the_last_bit() -> None:
    values = tensors()
    # Mantissas in the middle of what the checksum keeps: one unit in the last place must not matter.
    scales = (values["scales"].numpy().view(np.int32) & ~np.int32(0x7F)).view(np.float32)
    values["scales"] = torch.from_numpy(scales)
    for towards in (1, 0):
        other = dict(values, scales=torch.from_numpy(np.nextafter(scales, np.float32(towards))))
        assert not torch.equal(values["scales"], other["scales"])
        assert GaussianMap.from_tensors(**values).checksum == GaussianMap.from_tensors(**other).checksum


@given(st.data())
def test_whatever_comes_in_what_comes_out_is_usable(data: st.DataObject) -> None:
    anything = st.floats(width=32, allow_nan=True, allow_infinity=True)
    count = data.draw(st.integers(1, 4))

    def draw(*shape: int) -> torch.Tensor:
        size = math.prod(shape)
        return torch.tensor(data.draw(st.lists(anything, min_size=size, max_size=size))).reshape(shape)

    try:
        gaussians = GaussianMap.from_parameters(
            draw(count, 3), draw(count, 4), draw(count, 3), draw(count), draw(count, 1, 3)
        )
    except MapError:
        return
    for tensor in (gaussians.means, gaussians.quats_wxyz, gaussians.scales, gaussians.opacities, gaussians.sh):
        assert torch.isfinite(tensor).all()
    assert (gaussians.scales > 0).all()
    assert ((gaussians.opacities >= 0) & (gaussians.opacities <= 1)).all()
    torch.testing.assert_close(gaussians.quats_wxyz.norm(dim=1), torch.ones(len(gaussians)), rtol=0, atol=1e-6)
    assert len(gaussians) + gaussians.dropped.total == count
