"""Compiled steps sum out discrete latents as Pyro's do."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, TraceEnum_ELBO, config_enumerate
from pyro.infer.util import Dice
from torch.distributions import constraints

import pyrovae
from pyrovae import CompiledSVI
from pyrovae.training.optimizers import Joint

X = torch.randn(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def weights(name, start):
    return pyro.param(name, lambda: torch.tensor(start, dtype=torch.float64), constraint=constraints.simplex)


def means():
    return pyro.param("means", lambda: torch.tensor([[-1.0, 0.0], [0.5, 0.5], [0.0, 2.0]], dtype=torch.float64))


@config_enumerate
def mixture(x):
    p = weights("p", [0.2, 0.3, 0.5])
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(p))
        pyro.sample("x", dist.Normal(means()[z], 1.0).to_event(1), obs=x)


def nothing(x):
    pass


def without_second(p):
    """Of three components, the second has the probability 0."""
    return dist.Categorical(logits=torch.stack([p[0].log(), torch.full_like(p[0], -torch.inf), p[1].log()]))


def impossible(x):
    """As `mixture`, but for a component whose log-density is -inf."""
    p = weights("p", [0.4, 0.6])
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", without_second(p))
        pyro.sample("x", dist.Normal(means()[z], 1.0).to_event(1), obs=x)


@config_enumerate
def never(x):
    q = weights("q", [0.7, 0.3])
    with pyro.plate("rows", len(x)):
        pyro.sample("z", without_second(q))


@config_enumerate
def markov(x):
    rows = weights("rows", [[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.3, 0.3, 0.4]])
    z = 0
    for t in pyro.markov(range(4)):
        z = pyro.sample(f"z{t}", dist.Categorical(rows[z]))
        pyro.sample(f"x{t}", dist.Normal(means()[z], 1.0).to_event(1), obs=x[t])


PROGRAMS = {"mixture": (mixture, nothing), "impossible": (impossible, never), "markov": (markov, nothing)}


@pytest.mark.parametrize("name", PROGRAMS)
def test_steps_are_pyros(as_traced, name):
    found, whole = [], Dice.compute_expectation
    for kind in (CompiledSVI, SVI):
        pyro.clear_param_store()
        svi = kind(*PROGRAMS[name], pyro.optim.Adam({"lr": 0.1}), TraceEnum_ELBO(max_plate_nesting=name != "markov"))
        losses = [svi.step(X) for _ in range(5)]
        found.append((losses, {key: value.detach() for key, value in pyro.get_param_store().items()}))
    (ours, here), (theirs, there) = found
    assert len(as_traced) == 1 and Dice.compute_expectation is whole
    assert ours == pytest.approx(theirs, rel=1e-9) and len(set(ours)) == 5
    for key, value in here.items():
        torch.testing.assert_close(value, there[key], rtol=0, atol=1e-9)


def test_a_mixture_is_exact(as_traced):
    """Against the logarithm of the sum of the densities."""
    svi = CompiledSVI(mixture, nothing, pyro.optim.SGD({"lr": 0.0}), TraceEnum_ELBO(max_plate_nesting=1))
    losses = [svi.step(X), svi.step(X), svi.evaluate_loss(X)]
    p = dist.Categorical(torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64))
    exact = torch.distributions.MixtureSameFamily(p, dist.Normal(means().detach(), 1.0).to_event(1)).log_prob(X).sum()
    assert as_traced and losses == pytest.approx([-exact.item()] * 3, rel=1e-12)


def test_machine_code_of_a_vae():
    """Its own estimator, and losses and parameters after some steps of each."""
    found = []
    for kind in (CompiledSVI, SVI):
        torch.manual_seed(0)
        vae = pyrovae.VAE((6,), 3, prior="categorical", posterior="categorical", likelihood="bernoulli")
        adam, guide = torch.optim.Adam(vae.parameters(), lr=0.01), config_enumerate(vae.guide)
        svi = kind(vae.model, guide, adam if kind is CompiledSVI else Joint(adam), TraceEnum_ELBO(max_plate_nesting=1))
        x = (torch.rand(20, 6) < 0.4).float()
        found.append(([svi.step(x) for _ in range(5)], vae, getattr(svi, "reason", None)))
    (ours, vae, reason), (theirs, other, _) = found
    assert reason is None and ours == pytest.approx(theirs, rel=1e-5)
    for value, there in zip(vae.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(value, there, rtol=0, atol=1e-4)


def test_a_compiled_fit_is_the_eager_one(as_traced):
    histories = []
    for compiled in (True, False):
        torch.manual_seed(0)
        vae = pyrovae.VAE((2,), 3, prior="categorical", posterior="categorical", likelihood="gaussian")
        options = dict(epochs=3, batch_size=10, elbo="enum_elbo", progress=False)
        histories.append(pyrovae.fit(vae, X.float(), compile=compiled, **options)["elbo"])
    assert len(as_traced) == 1 and histories[0].to_numpy() == pytest.approx(histories[1].to_numpy(), rel=1e-5)
