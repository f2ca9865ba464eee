import math

import pytest
import torch

from pyrovae.distributions import inverse_scale, to_scale


@pytest.mark.parametrize("floor", [1e-4, 1e-3, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_scale_is_the_floor_plus_softplus(floor, dtype):
    raw = torch.linspace(-50, 50, 101, dtype=dtype)
    expected = [floor + max(r, 0) + math.log1p(math.exp(-abs(r))) for r in raw.tolist()]
    # torch's softplus is the identity above 20, where log(1 + exp(-20)) is 2e-9.
    low, high = (1e-6, 1e-6) if dtype == torch.float32 else (1e-12, 1e-10)
    got = to_scale(raw, floor).tolist()
    assert got[:71] == pytest.approx(expected[:71], rel=low)
    assert got[71:] == pytest.approx(expected[71:], rel=high)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_it_is_bounded_below_and_grows_linearly(dtype):
    scale = to_scale(torch.tensor([-1e30, -1e4, 1e4, 1e30], dtype=dtype), 0.1)
    assert scale.tolist() == pytest.approx([0.1, 0.1, 1e4 + 0.1, 1e30], rel=1e-6)
    raw = torch.tensor([-1e4, 0.0, 1e4], dtype=dtype, requires_grad=True)
    (slope,) = torch.autograd.grad(to_scale(raw, 0.1).sum(), raw)
    assert slope.tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("floor", [1e-4, 1e-3, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_there_and_back(floor, dtype):
    tolerance = 2e-6 if dtype == torch.float32 else 1e-13
    scale = floor * torch.tensor([1.01, 1.5, 3.0, 100.0, 1e4, 1e6], dtype=dtype)
    assert torch.allclose(to_scale(inverse_scale(scale, floor), floor), scale, rtol=tolerance, atol=0)
    raw = torch.linspace(-5, 60, 50, dtype=dtype)
    assert torch.allclose(inverse_scale(to_scale(raw, floor), floor), raw, rtol=1e-4, atol=0.1 if floor > 0.1 else 1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scale", [0.0, 0.05, 0.1])
def test_scales_at_or_below_the_floor_are_put_just_above(scale, dtype):
    raw = inverse_scale(torch.tensor(scale, dtype=dtype), 0.1)
    assert torch.isfinite(raw)
    assert 0.1 < to_scale(raw, 0.1).item() < 0.1002
