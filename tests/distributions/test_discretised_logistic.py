"""The discretised logistic against mpmath's difference of sigmoids, and as a distribution over its levels."""

import math

import mpmath
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from pyrovae.distributions import DiscretisedLogistic, Levels

DTYPES = [torch.float32, torch.float64]
LOCS = [-1e3, -0.3, 0.0, 0.2, 0.5, 0.999, 1.7, 1e3]
SCALES = [1e-4, 1e-3, 0.05, 1.0, 1e3]


@pytest.fixture(autouse=True)
def digits():
    with mpmath.workdps(60):
        yield


def mp_mass(k, loc, scale, levels):
    """The difference of sigmoids as it stands in the papers, from the far side of the bin where both are near 1."""
    top = levels - 1
    lower, upper = ((mpmath.mpf(k) + s * mpmath.mpf("0.5")) / top for s in (-1, 1))
    u, v = ((edge - mpmath.mpf(loc)) / mpmath.mpf(scale) for edge in (lower, upper))
    if u > 0:
        u, v, k = -v, -u, top - k
    below = 0 if k == 0 else 1 / (1 + mpmath.exp(-u))
    above = 1 if k == top else 1 / (1 + mpmath.exp(-v))
    return above - below


def grid(dtype):
    locs, scales = torch.meshgrid(torch.tensor(LOCS, dtype=dtype), torch.tensor(SCALES, dtype=dtype), indexing="ij")
    return locs.flatten(), scales.flatten()


@pytest.mark.parametrize("levels", [2, 5, 256, 65536])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_log_prob_by_mpmath(levels, dtype):
    """At every location and scale, where both sigmoids are 0, where both are 1 and where the bin is all there is."""
    loc, scale = grid(dtype)
    for k in {0, 1, levels // 3, levels - 2, levels - 1}:
        value = torch.tensor(k / (levels - 1), dtype=dtype)
        got = DiscretisedLogistic(loc, scale, levels).log_prob(value)
        expected = [
            float(mpmath.log(mp_mass(k, a, b, levels))) for a, b in zip(loc.tolist(), scale.tolist(), strict=True)
        ]
        # An edge of a bin has float32's 6e-8 near 1, which a scale of 1e-4 makes 6e-4 of a nat.
        rel, absolute = (1e-5, 2e-3) if dtype == torch.float32 else (1e-11, 1e-11)
        assert got.tolist() == pytest.approx(expected, rel=rel, abs=absolute), k
        # A nat counts where the scale does not magnify the edge.
        wide = scale >= 0.05
        assert got[wide].tolist() == pytest.approx(
            [e for e, w in zip(expected, wide.tolist(), strict=True) if w], rel=1e-6, abs=5e-6
        )


@pytest.mark.parametrize("levels", [2, 3, 256])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_masses_sum_to_one(levels, dtype):
    loc, scale = grid(dtype)
    values = torch.arange(levels, dtype=dtype) / (levels - 1)
    total = DiscretisedLogistic(loc, scale, levels).log_prob(values[:, None]).exp().sum(0)
    assert total.tolist() == pytest.approx([1.0] * len(loc), rel=2e-5 if dtype == torch.float32 else 1e-11)


def test_it_needs_no_mass_in_the_tails():
    """300 scales from the bin the mass is exp(-300): a difference of float32 sigmoids is 0."""
    p = DiscretisedLogistic(torch.tensor([0.9, 0.1]), torch.tensor([1e-3, 1e-3]))
    value = torch.tensor([0.6, 0.4])
    upper = -(0.3 - 0.5 / 255) / 1e-3
    exact = upper + math.log(-math.expm1(-1 / (255 * 1e-3)))
    assert p.log_prob(value).tolist() == pytest.approx([exact, exact], rel=1e-5)
    naive = torch.sigmoid(torch.tensor(300.0) + 2) - torch.sigmoid(torch.tensor(300.0) - 2)
    assert naive == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_by_mpmath(dtype):
    loc, scale = (t.requires_grad_() for t in grid(dtype))
    for k in (0, 85, 255):
        value = torch.tensor(k / 255, dtype=dtype)
        slopes = torch.autograd.grad(DiscretisedLogistic(loc, scale).log_prob(value).sum(), (loc, scale))
        assert all(torch.isfinite(s).all() for s in slopes)
        for i in range(len(loc)):
            a, b = loc[i].item(), scale[i].item()
            for slope, at, f in (
                (slopes[0][i], a, lambda t, b=b, k=k: mpmath.log(mp_mass(k, t, b, 256))),
                (slopes[1][i], b, lambda t, a=a, k=k: mpmath.log(mp_mass(k, a, t, 256))),
            ):
                exact = float(mpmath.diff(f, at, h=mpmath.mpf("1e-20")))
                rel = 2e-3 if dtype == torch.float32 else 1e-8
                assert slope.item() == pytest.approx(exact, rel=rel, abs=3e-3 / b if dtype.itemsize == 4 else 1e-8)


@pytest.mark.parametrize(("loc", "scale"), [(0.3, 0.02), (0.97, 0.1), (0.5, 1e-3), (-2.0, 1.0), (0.5, 50.0)])
@pytest.mark.parametrize("levels", [2, 7, 256])
def test_mean_and_variance(loc, scale, levels):
    masses = [mp_mass(k, loc, scale, levels) for k in range(levels)]
    mean = mpmath.fsum(m * k for k, m in enumerate(masses)) / (levels - 1)
    variance = mpmath.fsum(m * (mpmath.mpf(k) / (levels - 1) - mean) ** 2 for k, m in enumerate(masses))
    for dtype, rel in zip(DTYPES, (1e-5, 1e-10), strict=True):
        p = DiscretisedLogistic(torch.tensor(loc, dtype=dtype), torch.tensor(scale, dtype=dtype), levels)
        assert p.mean.item() == pytest.approx(float(mean), rel=rel, abs=1e-6 if dtype.itemsize == 4 else 1e-12)
        assert p.variance.item() == pytest.approx(float(variance), rel=1e-3 if dtype.itemsize == 4 else 1e-9, abs=1e-9)


@pytest.mark.parametrize(("loc", "scale"), [(0.3, 0.1), (1.05, 0.2), (-0.5, 1.0), (0.52, 0.01)])
@pytest.mark.parametrize("levels", [2, 5, 20])
def test_draws_are_the_masses(loc, scale, levels):
    """A chi-squared test of counts over the levels."""
    p = DiscretisedLogistic(torch.tensor(loc), torch.tensor(scale), levels)
    draws = p.sample((5000,))
    assert p.support.check(draws).all()
    counts = torch.bincount((draws * (levels - 1)).round().long(), minlength=levels).double()
    expected = torch.tensor([float(mp_mass(k, loc, scale, levels)) for k in range(levels)], dtype=torch.float64) * 5000
    rare = expected < 5
    observed = [*counts[~rare].tolist(), counts[rare].sum().item()]
    theory = [*expected[~rare].tolist(), expected[rare].sum().item() + 1e-9]
    chi = sum((o - e) ** 2 / max(e, 0.5) for o, e in zip(observed, theory, strict=True))
    assert chi < stats.chi2.ppf(0.9999, max(len(theory) - 1, 1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_draws_at_the_extremes(dtype):
    loc, scale = grid(dtype)
    draws = DiscretisedLogistic(loc, scale).sample((50,))
    assert draws.dtype == dtype and Levels(256).check(draws).all()
    assert (draws[:, loc == -1e3][:, scale[loc == -1e3] < 2] == 0).all()
    assert (draws[:, loc == 1e3][:, scale[loc == 1e3] < 2] == 1).all()


def test_a_value_is_as_near_as_float32_has_it():
    """k / 255 by division, by multiplication and through float64: one mass."""
    p = DiscretisedLogistic(torch.tensor(0.4, dtype=torch.float64), torch.tensor(1e-3, dtype=torch.float64))
    k = torch.arange(256)
    exact = k.double() / 255
    for value in ((k.float() / 255).double(), (k.float() * (1 / 255)).double()):
        assert Levels(256).check(value).all()
        assert torch.equal(p.log_prob(value), p.log_prob(exact))


@pytest.mark.parametrize("levels", [2, 3, 16, 256, 65536])
def test_the_support(levels):
    support = Levels(levels)
    values = torch.arange(levels).float() / (levels - 1)
    assert support.check(values).all() and support.is_discrete
    assert not support.check(values[:-1] + 0.5 / (levels - 1)).any()
    assert not support.check(values[:-1] + 0.1 / (levels - 1)).any()
    outside = [-1 / (levels - 1), 1 + 1 / (levels - 1), math.nan, math.inf, -math.inf]
    assert not support.check(torch.tensor(outside)).any()


def test_the_support_in_words():
    assert str(Levels(256)) == "{0, 1/255, ..., 1}" and str(Levels(2)) == "{0, 1}"


def test_it_expands_validates_and_mixes():
    p = DiscretisedLogistic(torch.tensor([0.1, 0.5, 0.9]), torch.tensor(0.1), 11, validate_args=True)
    value = torch.tensor([0.2, 0.5, 1.0])
    wide = p.expand([4, 3])
    assert isinstance(wide, DiscretisedLogistic) and (wide.batch_shape, wide.levels) == ((4, 3), 11)
    assert torch.equal(wide.log_prob(value), p.log_prob(value).expand(4, 3))
    assert wide.sample((2,)).shape == (2, 4, 3) and wide.mean.shape == wide.variance.shape == (4, 3)
    for q in (p, wide):
        with pytest.raises(ValueError, match="within the support"):
            q.log_prob(torch.tensor([0.2, 0.55, 1.0]))
    mixture = dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.2, 0.3, 0.5])), p)
    masses = torch.stack([mixture.log_prob(torch.tensor(k / 10)).exp() for k in range(11)])
    assert masses.sum().item() == pytest.approx(1, rel=1e-5)
    tens = torch.arange(11) / 10
    assert mixture.mean.item() == pytest.approx((masses * tens).sum().item(), rel=1e-5)
    assert mixture.variance.item() == pytest.approx((masses * (tens - mixture.mean) ** 2).sum().item(), rel=1e-4)
