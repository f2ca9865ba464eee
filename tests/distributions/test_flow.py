import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import ExpTransform, Transform, constraints

from pyrovae.distributions import Flow
from pyrovae.distributions.householder import Householder
from pyrovae.distributions.planar import Planar
from pyrovae.distributions.root import tanh_root
from pyrovae.distributions.sylvester import Sylvester
from pyrovae.distributions.zuko import flow_network


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


class Cube(Transform):
    """x -> x + x^3, whose inverse is not known."""

    domain = codomain = constraints.real_vector
    bijective = True

    def _call(self, x):
        return x + x**3

    def _inverse(self, y):
        raise RuntimeError("inverted")

    def log_abs_det_jacobian(self, x, y):
        return torch.log1p(3 * x**2).sum(-1)


def cube(loc, batch_shape=(4,)):
    return Flow(dist.Normal(loc, 1.0).expand((*batch_shape, 2)).to_event(1), Cube())


# The density of a draw


def test_the_density_of_the_last_draw_takes_no_inverse():
    q = cube(torch.zeros(()))
    for d, batch in ((q, (4,)), (q.expand((3, 4)), (3, 4))):
        z = d.rsample((5,))
        x = z.clone()  # by Newton, independently
        for _ in range(100):
            x = x - (x + x**3 - z) / (1 + 3 * x**2)
        expected = (torch.distributions.Normal(0.0, 1.0).log_prob(x) - torch.log1p(3 * x**2)).sum(-1)
        assert d.log_prob(z).shape == (5, *batch)
        assert torch.allclose(d.log_prob(z), expected, atol=1e-4)
        for other in (z.clone(), z[:1]):
            with pytest.raises(RuntimeError, match="inverted"):
                d.log_prob(other)
    first, last = q.rsample(), q.rsample()
    with pytest.raises(RuntimeError, match="inverted"):
        q.log_prob(first)
    with pytest.raises(RuntimeError, match="inverted"):
        q.expand((3, 4)).log_prob(last)


def test_a_draw_without_a_graph_is_inverted_where_derivatives_are_asked_for():
    """Or the score-function gradient would be 0 without a word."""
    loc = torch.zeros((), requires_grad=True)
    q = cube(loc)
    z = q.sample()
    assert not z.requires_grad
    with torch.no_grad():
        assert not q.log_prob(z).requires_grad
    with pytest.raises(RuntimeError, match="inverted"):
        q.log_prob(z)
    fixed = cube(torch.zeros(()))
    z = fixed.rsample()
    fixed.log_prob(z)
    z.requires_grad_()
    with pytest.raises(RuntimeError, match="inverted"):
        fixed.log_prob(z)
    with torch.no_grad():
        z = q.rsample()
    with pytest.raises(RuntimeError, match="inverted"):
        q.log_prob(z)


def test_a_kept_density_is_without_a_graph_where_none_is_wanted():
    q = cube(torch.zeros((), requires_grad=True))
    z = q.rsample()
    assert q.log_prob(z).requires_grad
    with torch.no_grad():
        assert not q.log_prob(z).requires_grad


def test_shapes_support_and_checks():
    q = cube(torch.zeros(()), ())
    assert q.has_rsample and q.event_shape == (2,) and q.batch_shape == ()
    assert q.support.event_dim == 1
    with pyro.plate("particles", 3, dim=-2), pyro.plate("data", 4, dim=-1):
        assert pyro.sample("z", q).shape == (3, 4, 2)
    with pytest.raises(ValueError, match="support"):
        q.log_prob(torch.full((2,), torch.nan))


def test_inside_another_transform():
    """As a posterior that is carried to positive numbers: the draw's density is that of the flow's own draw."""
    q = dist.TransformedDistribution(cube(torch.zeros(())), [ExpTransform(cache_size=1)])
    z = q.rsample()
    assert torch.allclose(q.log_prob(z), q.base_dist.log_prob(q.transforms[0].inv(z)) - z.log().sum(-1))


# Transforms


def _jacobian(transform, x):
    return torch.autograd.functional.jacobian(lambda v: transform(v).sum(0), x).movedim(1, 0)


def planar(size, batch, scale=2.0):
    return Planar(scale * randn(batch, size), scale * randn(batch, size), scale * randn(batch))


def sylvester(size, batch, scale=2.0):
    return Sylvester(scale * randn(batch, size, size), scale * randn(batch, size, size), scale * randn(batch, size))


def householder(size, batch):
    return Householder(randn(batch, 3, size))


@pytest.mark.parametrize("make", [planar, sylvester, householder])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_determinant_and_inverse(make, size):
    transform, x = make(size, 50), 3 * randn(50, size)
    y, ladj = transform.call_and_ladj(x)
    sign, expected = torch.linalg.slogdet(_jacobian(transform, x))
    assert (sign == 1).all() or make is householder
    assert torch.allclose(ladj, expected, atol=1e-9)
    assert torch.equal(transform.log_abs_det_jacobian(x, y), ladj) and torch.equal(transform(x), y)
    # Where the step is nearly flat, the inverse is as steep.
    assert ((transform.inv(y) - x).norm(dim=-1) * ladj.exp().clamp_max(1)).max() < 1e-9
    assert (transform(transform.inv(x)) - x).abs().max() < 1e-9
    # Other leading dimensions than its own.
    wide = randn(4, 1, size)
    assert transform(wide).shape == transform.inv(wide).shape == (4, 50, size)
    assert torch.allclose(transform(transform.inv(wide)), wide.expand(4, 50, size), atol=1e-9)
    assert transform.inv(wide[0, 0]).shape == (50, size)


def test_planar_is_the_formula_of_the_paper():
    u, w, b, x = randn(3), randn(3), 0.4, randn(3)
    for sign in (1, -1):
        along = (u * w).sum()
        u = sign * along.sign() * u  # above 0 the vector is used as it is
        dot = (u * w).sum()
        m = dot if dot > 0 else dot.exp() - 1
        u_hat = u.numpy() + ((m - dot) / (w**2).sum()).item() * w.numpy()
        assert np.dot(u_hat, w.numpy()) == pytest.approx(m.item())
        expected = x.numpy() + u_hat * np.tanh(np.dot(w.numpy(), x.numpy()) + b)
        assert Planar(u, w, torch.tensor(b, dtype=torch.float64))(x).tolist() == pytest.approx(
            expected.tolist(), rel=1e-12
        )


def test_planar_has_a_limit_where_w_vanishes():
    u, x = torch.tensor([1.0, -2.0]), torch.tensor([0.3, 0.1])
    for size in (0.0, 1e-30, 1e-12, 1e-6, 1e-4):
        w = torch.full((2,), size, requires_grad=True)
        y, ladj = Planar(u, w, torch.tensor(0.5)).call_and_ladj(x)
        assert torch.allclose(y, x + u * np.tanh(0.5), atol=1e-3) and ladj.abs() < 1e-3
        (slope,) = torch.autograd.grad(y.sum() + ladj, w)
        assert torch.isfinite(slope).all()


def test_sylvester_is_the_formula_of_the_paper():
    r, s, b, x = randn(3, 3), randn(3, 3), randn(3), randn(3)
    upper = [np.triu(m.numpy(), 1) + 0.999 * np.diag(np.tanh(np.diag(m.numpy()))) for m in (r, s)]
    expected = x.numpy() + upper[0] @ np.tanh(upper[1] @ x.numpy() + b.numpy())
    assert Sylvester(r, s, b)(x).tolist() == pytest.approx(expected.tolist(), rel=1e-12)


def test_householder_is_the_product_of_its_reflections():
    v, x = randn(3, 4), randn(4)
    matrix = torch.eye(4, dtype=torch.float64)
    for row in v:
        matrix = (torch.eye(4, dtype=torch.float64) - 2 * torch.outer(row, row) / row.dot(row)) @ matrix
    assert torch.allclose(Householder(v)(x), matrix @ x, atol=1e-12)
    assert torch.allclose(Householder(v).inv(x), matrix.T @ x, atol=1e-12)


@pytest.mark.parametrize("s", [1.0, -0.7])
def test_root(s):
    target, r, b = 10 * randn(200), torch.rand(200, dtype=torch.float64) * 5, randn(200)
    r = -0.999 * torch.rand(200, dtype=torch.float64) / abs(s) if s > 0 else -r
    x = tanh_root(target, r, s, b)
    assert torch.allclose(x + r * torch.tanh(s * x + b), target, atol=1e-12)


def test_derivatives_of_the_root():
    values = [t.requires_grad_() for t in (randn(5), torch.rand(5, dtype=torch.float64), randn(5).abs(), randn(5))]
    assert torch.autograd.gradcheck(tanh_root, values)
    assert torch.autograd.gradcheck(lambda target: tanh_root(target, *(v.detach() for v in values[1:])), values[:1])


# zuko


@pytest.mark.parametrize("kind", ["maf", "nsf", "coupling"])
@pytest.mark.parametrize("context", [0, 3])
def test_networks_start_near_the_identity(kind, context):
    transform = flow_network(kind, 4, context)(torch.randn(100, context) if context else None)
    x = torch.randn(100, 4)
    y, ladj = transform.call_and_ladj(x)
    assert 0 < (y - x).abs().max() < 0.2 and ladj.abs().max() < 0.2
