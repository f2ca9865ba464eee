import mpmath
import pytest
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch.distributions import LogisticNormal as Torchs
from torch.distributions import StickBreakingTransform

from pyrovae.distributions import LogisticNormal, StickBreaking

X = torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LOC, SCALE = X[0].clone(), X[1].abs() + 0.3


def test_as_torchs_where_that_is_exact():
    ours, torchs = StickBreaking(), StickBreakingTransform()
    y = torchs(X)
    assert torch.allclose(ours(X), y, rtol=1e-12) and torch.allclose(ours.inv(y), X, rtol=1e-9, atol=1e-9)
    assert torch.allclose(ours.log_abs_det_jacobian(X, y), torchs.log_abs_det_jacobian(X, y), rtol=1e-11)
    assert torch.allclose(LogisticNormal(LOC, SCALE).log_prob(y), Torchs(LOC, SCALE).log_prob(y), rtol=1e-9)
    assert ours == torchs and torchs == ours


def test_the_determinant_is_that_of_the_first_parts():
    for x in X[:5]:
        jacobian = torch.autograd.functional.jacobian(lambda x: StickBreaking()(x)[:-1], x)
        expected = torch.linalg.slogdet(jacobian).logabsdet
        assert torch.allclose(StickBreaking().log_abs_det_jacobian(x, None), expected, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("start", [1.0, 5.0, 20.0])
def test_small_parts_keep_their_digits(start, dtype):
    """What is left of the stick falls to exp(-40): there and back, and the density, against 60 digits."""
    x = torch.tensor([start, start, -3.0], dtype=dtype)
    transform = StickBreaking()
    y = transform(x)
    assert y.sum().item() == pytest.approx(1, abs=4 * torch.finfo(dtype).eps)
    assert torch.allclose(transform.inv(y), x, rtol=1e-4 if dtype == torch.float32 else 1e-12)
    with mpmath.workdps(60):
        rest, log_det = mpmath.mpf(1), mpmath.mpf(0)
        for k, value in enumerate(x.tolist()):
            v = 1 / (1 + mpmath.exp(-(mpmath.mpf(value) - mpmath.log(3 - k))))
            assert y[k].item() == pytest.approx(float(rest * v), rel=1e-5)
            log_det += mpmath.log(rest * v * (1 - v))
            rest *= 1 - v
        assert y[3].item() == pytest.approx(float(rest), rel=1e-5)
        normals = sum(mpmath.log(mpmath.npdf(value)) for value in x.tolist())
    log_prob = LogisticNormal(torch.zeros_like(x), torch.ones_like(x)).log_prob(y).item()
    assert log_prob == pytest.approx(float(normals - log_det), rel=1e-4 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("value", [-1e3, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_finite_at_the_corners(value, dtype):
    x = torch.full((5,), value, dtype=dtype, requires_grad=True)
    y = StickBreaking()(x)
    total = StickBreaking().log_abs_det_jacobian(x, y) + LogisticNormal(0 * x.detach(), 0 * x + 1).log_prob(y)
    total.backward()
    assert torch.isfinite(y).all() and torch.isfinite(total) and torch.isfinite(x.grad).all()


def test_draws():
    p = LogisticNormal(LOC, SCALE)
    assert isinstance(p, TorchDistributionMixin) and (p.batch_shape, p.event_shape) == ((), (7,))
    x = StickBreakingTransform().inv(p.rsample((20_000,)))
    assert ((x.mean(0) - LOC) / SCALE * 20_000**0.5).abs().max() < 4
    assert (x.std(0) / SCALE - 1).abs().max() < 0.03
    wide = p.expand((2, 3))
    assert isinstance(wide, LogisticNormal) and wide.sample((5,)).shape == (5, 2, 3, 7)
    assert torch.allclose(wide.log_prob(StickBreaking()(X[0])), p.log_prob(StickBreaking()(X[0])).expand(2, 3))
