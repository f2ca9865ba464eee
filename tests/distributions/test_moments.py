"""Moments and centres of distributions with and without closed forms, and bijections onto supports."""

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

from pyrovae.distributions import (
    Categoricals,
    PowerSpherical,
    bijection,
    centre,
    expectation,
    map_tensors,
    moments,
    same_support,
)


def carried(support, loc=0.3, scale=0.5):
    base = dist.Normal(torch.full((4, 2), loc), scale).to_event(1)
    return dist.TransformedDistribution(base, [bijection(support)])


def test_closed_forms_are_taken():
    d = dist.Gamma(torch.tensor([2.0, 3.0]), 4.0).to_event(1)
    mean, deviation = moments(d)
    assert torch.equal(mean, d.mean) and torch.equal(deviation, d.stddev) and torch.equal(expectation(d), d.mean)
    assert torch.equal(centre(d), d.mean)


def test_draws_stand_in_for_closed_forms_and_leave_the_random_state_alone():
    d = carried(constraints.positive)
    before = torch.get_rng_state()
    mean, deviation = moments(d)
    assert torch.equal(torch.get_rng_state(), before)
    exact = dist.LogNormal(0.3, 0.5)
    assert mean.shape == deviation.shape == (4, 2)
    torch.testing.assert_close(mean, exact.mean.expand(4, 2), rtol=0.15, atol=0)
    torch.testing.assert_close(deviation, exact.stddev.expand(4, 2), rtol=0.4, atol=0)
    assert torch.equal(moments(d)[0], mean)


def test_the_centre_of_a_carried_normal_is_its_median():
    torch.testing.assert_close(centre(carried(constraints.positive)), torch.tensor(0.3).exp().expand(4, 2))
    torch.testing.assert_close(centre(carried(constraints.unit_interval)), torch.tensor(0.3).sigmoid().expand(4, 2))
    assert constraints.simplex.check(centre(carried(constraints.simplex))).all()


def test_the_centre_lies_in_the_support():
    classes = Categoricals(torch.tensor([[[1.0, 2.0, 0.0]], [[3.0, 0.0, 0.0]]]))
    assert torch.equal(centre(classes), torch.tensor([[0.0, 1, 0], [1, 0, 0]]))
    sphere = PowerSpherical(torch.tensor([[0.6, 0.8]]), torch.tensor([3.0]))
    torch.testing.assert_close(centre(sphere), torch.tensor([[0.6, 0.8]]))
    torch.testing.assert_close(expectation(sphere).norm(), sphere.mean.norm())
    # Nominal classes have no mean: the likeliest of them.
    assert expectation(dist.Categorical(logits=torch.tensor([0.0, 2.0, 1.0]))) == 1


@pytest.mark.parametrize(
    "support",
    [
        constraints.positive,
        constraints.nonnegative,
        constraints.unit_interval,
        constraints.interval(-1.0, 3.0),
        constraints.interval(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 5.0])),
        constraints.greater_than(2.0),
        constraints.simplex,
        constraints.independent(constraints.positive, 1),
    ],
)
def test_bijections_reach_their_support(support):
    transform = bijection(support)
    x = 3 * torch.randn(50, 2)
    y = transform(x)
    inner = support.base_constraint if hasattr(support, "base_constraint") else support
    assert inner.check(y).all() and same_support(transform.codomain, support)
    torch.testing.assert_close(transform.inv(y), x, rtol=1e-3, atol=1e-3)
    jacobian = torch.stack([torch.autograd.functional.jacobian(transform, row) for row in x[:5]])
    shape = (5, -1) if support is not constraints.simplex else (5, 1)
    square = jacobian[:, :2, :2] if support is constraints.simplex else jacobian
    ours = transform.log_abs_det_jacobian(x[:5], y[:5]).reshape(shape).sum(-1)
    torch.testing.assert_close(ours, square.det().abs().log(), rtol=1e-4, atol=1e-4)
    cached = transform.with_cache(1)
    assert same_support(cached.codomain, support) and cached.inv(cached(x)) is x
    assert map_tensors(torch.Tensor.double, transform)(x.double()).dtype == torch.float64


@pytest.mark.parametrize("support", [constraints.real, constraints.boolean, constraints.nonnegative_integer])
def test_no_bijection_where_none_is_needed_or_known(support):
    assert bijection(support) is None


def test_supports_are_compared_by_their_values():
    assert same_support(dist.Gamma(1.0, 1.0).support, dist.LogNormal(0.0, 1.0).support)
    assert same_support(dist.Beta(1.0, 1.0).support, dist.Uniform(0.0, 1.0).support)
    assert not same_support(dist.Uniform(0.0, 1.0).support, dist.Uniform(0.0, 2.0).support)
    assert not same_support(constraints.real, constraints.positive)
    assert not same_support(constraints.integer_interval(0, 1), constraints.unit_interval)
