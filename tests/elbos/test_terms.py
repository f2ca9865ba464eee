"""Per-row terms, the listener that collects them from any ELBO, and the weight on the KL term."""

import math

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro import infer
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO

from pyrovae import elbos
from pyrovae.elbos import KLWeight, Split, Terms

X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
KL_WEIGHTS = [0.0, 0.3, 1.0, 2.0]


def by_hand(vae, x, condition=None):
    """Reconstruction and KL of one draw, written out: the draw is the one that the guide makes at seed 5."""
    torch.manual_seed(5)
    q = vae.encode(x, condition)
    z = q.sample()
    kl = q.log_prob(z) - vae.prior().expand((len(x),)).log_prob(z)
    return vae.decode(z, condition).log_prob(vae.check(x)), kl


def test_terms_by_hand(tiny):
    vae = tiny()
    reconstruction, kl = by_hand(vae, X)
    torch.manual_seed(5)
    terms = elbos.terms(vae.model, vae.guide, X)
    assert torch.allclose(terms.reconstruction, reconstruction[None], rtol=1e-6)
    assert torch.allclose(terms.kl, kl[None], rtol=1e-5, atol=1e-6)
    assert torch.equal(terms.log_weights, terms.reconstruction - terms.kl)
    assert not terms.log_weights.requires_grad


def test_terms_with_a_condition(tiny):
    vae = tiny(condition_dim=2)
    condition = torch.randn(6, 2)
    reconstruction, kl = by_hand(vae, X, condition)
    torch.manual_seed(5)
    terms = elbos.terms(vae.model, vae.guide, X, condition)
    assert torch.allclose(terms.log_weights, (reconstruction - kl)[None], rtol=1e-5)
    assert elbos.terms(vae.model, vae.guide, X, condition, num_particles=4).kl.shape == (4, 6)


def test_particles_and_rows_have_draws_of_their_own(tiny):
    vae = tiny()
    terms = elbos.terms(vae.model, vae.guide, X[:1].expand(6, 3), num_particles=5)
    assert len(terms.kl.unique()) == len(terms.reconstruction.unique()) == 30


def test_terms_leave_no_trace(tiny):
    vae = tiny()
    elbos.terms(vae.model, vae.guide, X)
    assert all(p.grad is None for p in vae.parameters())


def test_terms_of_any_program():
    """Two latent sites, one of them masked out for some rows, and two observed ones."""
    mask = torch.tensor([True, False, True])

    def model(x, condition):
        with pyro.plate("rows", 3, dim=-1):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            with poutine.mask(mask=mask):
                b = pyro.sample("b", dist.Normal(0.0, 2.0))
            pyro.sample("x", dist.Normal(a, 1.0), obs=x[:, 0])
            pyro.sample("y", dist.Normal(b, 1.0), obs=x[:, 1])

    def guide(x, condition):
        with pyro.plate("rows", 3, dim=-1):
            pyro.sample("a", dist.Delta(torch.full((3,), 0.5)))
            with poutine.mask(mask=mask):
                pyro.sample("b", dist.Delta(torch.full((3,), -1.0)))

    terms = elbos.terms(model, guide, X[:3], num_particles=2)
    log = lambda value, loc, scale: dist.Normal(loc, scale).log_prob(torch.as_tensor(value))  # noqa: E731
    reconstruction = log(X[:3, 0], 0.5, 1.0) + log(X[:3, 1], -1.0, 1.0)
    kl = -log(0.5, 0.0, 1.0) - torch.where(mask, log(-1.0, 0.0, 2.0), 0.0)
    assert torch.allclose(terms.reconstruction, reconstruction.expand(2, 3))
    assert torch.allclose(terms.kl, kl.expand(2, 3))


# The listener

ESTIMATORS = {
    "trace": lambda: Trace_ELBO(),
    "looped": lambda: Trace_ELBO(num_particles=3),
    "vectorized": lambda: Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
    "graph": lambda: infer.TraceGraph_ELBO(num_particles=2),
    "enum": lambda: infer.TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False),
}


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_split_adds_up_to_the_estimate_and_changes_nothing(tiny, name, gradient):
    vae, loss = tiny(), ESTIMATORS[name]()
    method = loss.loss_and_grads if gradient else loss.loss
    torch.manual_seed(3)
    expected = method(vae.model, vae.guide, X)
    split = Split(vae.model, vae.guide)
    for _ in range(2):  # `take` starts anew
        torch.manual_seed(3)
        assert method(split.model, split.guide, X) == expected
        terms = split.take()
        assert terms.log_weights.shape[-1] == 6
        assert not terms.log_weights.requires_grad
        per_row = terms.log_weights.reshape(-1, 6).mean(0)
        assert -per_row.sum().item() == pytest.approx(expected, rel=1e-5)


def test_a_split_is_not_scaled_by_a_subsample(tiny):
    vae = tiny()
    split = Split(vae.model, vae.guide)
    loss = Trace_ELBO().loss(split.model, split.guide, X, size=60)
    assert loss == pytest.approx(-10 * split.take().log_weights.sum().item(), rel=1e-5)


def test_a_split_is_not_weighted_by_beta(tiny):
    vae = tiny()
    split = Split(vae.model, vae.guide)
    weight = KLWeight(0.25)
    loss = Trace_ELBO().loss(weight(split.model), weight(split.guide), X)
    terms = split.take()
    assert -loss == pytest.approx((terms.reconstruction - 0.25 * terms.kl).sum().item(), rel=1e-5)


# The weight of the KL term


@pytest.mark.parametrize("weight", KL_WEIGHTS)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_kl_weight_by_hand(linear, name, weight):
    """beta multiplies the KL and leaves the reconstruction, whichever plain ELBO, and a subsample scales both."""
    vae, x, loss = linear(n=6, shift=0.3).vae, linear(n=6).x, ESTIMATORS[name]()
    split = Split(vae.model, vae.guide)
    handler = KLWeight(weight)
    got = loss.loss(handler(split.model), handler(split.guide), x, size=18)
    terms = split.take()
    expected = (terms.reconstruction - weight * terms.kl).reshape(-1, 6).mean(0).sum()
    assert -got / 3 == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("weight", KL_WEIGHTS)
def test_kl_weight_in_closed_form(linear, weight):
    """The mean-field ELBO has the exact KL, so the loss is affine in beta with that KL as its slope."""
    exact = linear(n=6, shift=0.3, stretch=1.5)
    handler = KLWeight(weight)
    values = []
    for model, guide in ((exact.vae.model, exact.vae.guide), (handler(exact.vae.model), handler(exact.vae.guide))):
        torch.manual_seed(0)
        values.append(TraceMeanField_ELBO().loss(model, guide, exact.x))
    kl = exact.truth.kl(exact.loc, exact.covariance).sum().item()
    assert values[1] - values[0] == pytest.approx((weight - 1) * kl, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_gradient_of_a_weighted_step(tiny, weight):
    vae = tiny(prior="normal(learned=True)")
    torch.manual_seed(5)
    q = vae.encode(X)
    z = q.rsample()
    elbo = vae.decode(z).log_prob(X).sum() - weight * (q.log_prob(z) - vae.prior().log_prob(z)).sum()
    expected = torch.autograd.grad(-elbo, list(vae.parameters()), allow_unused=True)
    before = [p.detach().clone() for p in vae.parameters()]
    handler = KLWeight(weight)
    torch.manual_seed(5)
    SVI(handler(vae.model), handler(vae.guide), pyro.optim.SGD({"lr": 1.0}), Trace_ELBO()).step(X)
    for p, b, g in zip(vae.parameters(), before, expected, strict=True):
        assert torch.allclose(b - p, torch.zeros_like(b) if g is None else g, rtol=1e-4, atol=1e-5)


def test_the_weight_may_change_between_steps(tiny):
    vae = tiny()
    handler = KLWeight(0.0)
    model, guide = handler(vae.model), handler(vae.guide)
    losses = []
    for weight in (0.0, 1.0, 2.0):
        handler.weight = weight
        torch.manual_seed(0)
        losses.append(Trace_ELBO().loss(model, guide, X))
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-4)
    assert losses[0] != losses[1]


# Names

NAMES = {
    "elbo": infer.Trace_ELBO,
    "mean_field_elbo": elbos.MeanField,
    "graph_elbo": infer.TraceGraph_ELBO,
    "enum_elbo": infer.TraceEnum_ELBO,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_particles", [1, 5])
def test_estimators_by_name(name, num_particles):
    loss = elbos.make(name, num_particles)
    assert type(loss) is NAMES[name]
    assert (loss.num_particles, loss.vectorize_particles) == (num_particles, num_particles > 1)
    assert loss.max_plate_nesting == 1 + (num_particles > 1), "else Pyro runs the model once more, to guess it"
    assert elbos.make(name) is not elbos.make(name), "an ELBO object is bound to its first model"


def test_estimators_as_objects():
    loss = infer.RenyiELBO(num_particles=4)
    assert elbos.make(loss) is loss and elbos.make(loss, 4) is loss
    with pytest.raises(ValueError, match="num_particles: the ELBO object has 4, got 7 besides"):
        elbos.make(loss, 7)
    with pytest.raises(ValueError, match="unknown elbo 'elb': expected one of.*Did you mean 'elbo'"):
        elbos.make("elb")


@pytest.mark.parametrize(
    ("loss", "plain"),
    [
        (infer.Trace_ELBO(), True),
        (infer.TraceMeanField_ELBO(), True),
        (infer.TraceGraph_ELBO(), True),
        (infer.TraceEnum_ELBO(), True),
        (infer.RenyiELBO(num_particles=2), False),
        (infer.TraceTailAdaptive_ELBO(num_particles=2, vectorize_particles=True), False),
        (infer.ReweightedWakeSleep(), False),
        (infer.EnergyDistance(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_which_bounds_have_a_kl_to_weigh(loss, plain):
    assert elbos.is_regularizable(loss) is plain


def test_a_named_tuple_of_terms():
    terms = Terms(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 3.0]]))
    assert terms.log_weights.tolist() == [[0.5, -1.0]]
    assert math.isclose(sum(terms.log_weights[0].tolist()), -0.5)
