"""Programs as users of Pyro write them: a compiled step is that of `pyro.infer.SVI`, from the same seed."""

import dataclasses
import warnings
from contextlib import nullcontext

import numpy as np
import pyro
import pyro.contrib.gp as gp
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, ReweightedWakeSleep, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoIAFNormal, AutoNormal, AutoStructured
from pyro.infer.reparam import LocScaleReparam
from pyro.nn import PyroModule, PyroSample
from torch import nn
from torch.distributions import constraints

from pyrovae import CompiledSVI

G = torch.Generator().manual_seed(0)
X = torch.randn(30, 3, generator=G)
Y = X @ torch.tensor([1.0, -1.0, 0.5]) + 0.1 * torch.randn(30, generator=G)
COUNTS = torch.poisson(torch.full((30,), 3.0), generator=G)
PIXELS = (torch.rand(8, 4, 3, generator=G) > 0.5).float()


def regression(x, y):
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    sd = pyro.sample("sd", dist.LogNormal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(x @ w, sd), obs=y)


def auto(make):
    """A guide whose parameters are made, at random, when it is first called."""
    return regression, make(regression), Trace_ELBO(), (X, Y), {}


def subsample():
    """Other rows at each step, of which each has a parameter of its own."""

    def model(x):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x), subsample_size=10) as i:
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[i, 0])

    def guide(x):
        local = pyro.param("local", torch.zeros(len(x)))
        pyro.sample("loc", dist.Normal(pyro.param("global", torch.tensor(0.0)), 1.0))
        with pyro.plate("rows", len(x), subsample_size=10) as i:
            pyro.sample("z", dist.Normal(local[i], 1.0))

    return model, guide, Trace_ELBO(), (X,), {}


class Network(PyroModule):
    """A Bayesian one, whose priors are part of it: they check values, whatever is enabled later."""

    def __init__(self):
        super().__init__()
        self.linear = PyroModule[nn.Linear](3, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 3]).to_event(2))

    def forward(self, x, y):
        sd, loc = pyro.sample("sd", dist.Gamma(2.0, 2.0)), self.linear(x).squeeze(-1)
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(loc, sd), obs=y)


def network():
    model = Network()
    return model, AutoDiagonalNormal(model), Trace_ELBO(num_particles=2), (X, Y), {}


def poisson(counts):
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("rows", len(counts)):
        pyro.sample("counts", dist.Poisson(rate), obs=counts)


def gamma(counts):
    concentration = pyro.param("concentration", torch.tensor(2.0), constraint=constraints.positive)
    slope = pyro.param("slope", torch.tensor(1.0), constraint=constraints.positive)
    pyro.sample("rate", dist.Gamma(concentration, slope))


def rejection():
    """Draws by rejection, and their implicit gradient."""
    return poisson, gamma, TraceMeanField_ELBO(), (COUNTS,), {}


def no_arguments():
    """Data that a program closes over."""
    model = gp.models.GPRegression(X, Y, gp.kernels.RBF(3), noise=torch.tensor(0.5))
    return model.model, model.guide, Trace_ELBO(), (), {}


class Markov(nn.Module):
    """A deep Markov model, in small."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 6, batch_first=True)
        self.transition, self.emission, self.combine = nn.Linear(2, 4), nn.Linear(2, 3), nn.Linear(8, 4)

    def model(self, x, annealing=1.0):
        pyro.module("markov", self)
        z = x.new_zeros(len(x), 2)
        with pyro.plate("rows", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                loc, scale = self.transition(z).chunk(2, -1)
                with poutine.scale(scale=annealing):
                    z = pyro.sample(f"z{t}", dist.Normal(loc, scale.exp()).to_event(1))
                pyro.sample(f"x{t}", dist.Bernoulli(logits=self.emission(z)).to_event(1), obs=x[:, t])

    def guide(self, x, annealing=1.0):
        pyro.module("markov", self)
        hidden, z = self.rnn(x)[0], x.new_zeros(len(x), 2)
        with pyro.plate("rows", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                loc, scale = self.combine(torch.cat([hidden[:, t], z], -1)).chunk(2, -1)
                with poutine.scale(scale=annealing):
                    z = pyro.sample(f"z{t}", dist.Normal(loc, scale.exp()).to_event(1))


def deep_markov():
    markov = Markov()
    return markov.model, markov.guide, Trace_ELBO(), (PIXELS,), {"annealing": 0.5}


def handlers():
    """A masked likelihood, a factor, a site that is not centred."""

    def model(x):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("groups", 3):
            group = pyro.sample("group", dist.Normal(loc, 0.5))
        pyro.factor("factor", -(loc**2))
        with pyro.plate("rows", len(x), dim=-2), pyro.plate("columns", 3, dim=-1), poutine.mask(mask=x > 0):
            pyro.sample("x", dist.Normal(group, 1.0), obs=x)

    model = poutine.reparam(model, config={"group": LocScaleReparam(0.0)})
    return model, AutoNormal(model), Trace_ELBO(), (X,), {}


def function_of_programs():
    """As in Pyro's tutorial on objectives of one's own."""

    def loss(model, guide, *args):
        drawn = poutine.trace(guide).get_trace(*args)
        return drawn.log_prob_sum() - poutine.trace(poutine.replay(model, drawn)).get_trace(*args).log_prob_sum()

    return regression, AutoNormal(regression), loss, (X, Y), {}


def dictionary():
    """Arguments that are no tensors, and tensors within one."""

    def model(batch, which, scale=1.0):
        with pyro.plate("rows", len(batch["x"])), poutine.scale(scale=scale):
            pyro.sample("x", dist.Normal(pyro.param("loc", torch.tensor(0.1)), 1.0), obs=batch[which])

    return model, lambda *_, **__: None, Trace_ELBO(), ({"x": X[:, 0], "y": Y}, "y"), {"scale": 0.5}


PROGRAMS = {
    "AutoNormal": lambda: auto(AutoNormal),
    "AutoIAFNormal": lambda: auto(lambda model: AutoIAFNormal(model, hidden_dim=[8])),
    "AutoStructured": lambda: auto(AutoStructured),
    **{f.__name__: f for f in (
        subsample, network, rejection, no_arguments, deep_markov, handlers, function_of_programs, dictionary,
    )},
}  # fmt: skip


def taken(kind, program, optim=None, steps=5):
    """Losses of some steps, the loss after them, and the parameters."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    model, guide, loss, args, kwargs = program()
    svi = kind(model, guide, optim or pyro.optim.Adam({"lr": 0.01}), loss)
    losses = [svi.step(*args, **kwargs) for _ in range(steps)]
    losses.append(svi.evaluate_loss(*args, **kwargs))
    return losses, {name: value.detach().clone() for name, value in pyro.get_param_store().items()}, svi


def agree(ours, theirs, rel=1e-5):
    np.testing.assert_allclose(np.array(ours[0]), np.array(theirs[0]), rtol=rel)
    assert set(ours[1]) == set(theirs[1])
    for name, value in ours[1].items():
        torch.testing.assert_close(value, theirs[1][name], rtol=rel, atol=1e-5)


@pytest.mark.parametrize("name", PROGRAMS)
def test_steps_are_those_of_pyros_svi(as_traced, name):
    ours = taken(CompiledSVI, PROGRAMS[name])
    assert len(as_traced) == 2, "steps and their loss"
    agree(ours, taken(SVI, PROGRAMS[name]))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "no_arguments" else pytest.mark.slow) for name in PROGRAMS]
)
def test_machine_code_does_the_same(name):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "steps are not compiled")
        ours = taken(CompiledSVI, PROGRAMS[name])
    agree(ours, taken(SVI, PROGRAMS[name]), 1e-4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: pyro.optim.ClippedAdam({"lr": 0.1, "clip_norm": 0.5, "lrd": 0.9}),
        lambda: pyro.optim.RMSprop({"lr": 0.1}),
    ],
    ids=["clipped", "rmsprop"],
)
def test_optimizers_of_pyros(as_traced, make):
    """Those that are not written for a graph run after it."""
    agree(taken(CompiledSVI, rejection, make()), taken(SVI, rejection, make()))
    assert len(as_traced) == 2


def of_each(name):
    """The settings of a parameter, by its name."""
    return {"lr": 0.1 if name == "slope" else 0.01, "betas": (0.8, 0.9)}


@pytest.mark.parametrize("settings", [{"lr": 0.1}, of_each], ids=["one for all", "each its own"])
@pytest.mark.parametrize(
    ("way", "kept"),
    [((CompiledSVI, SVI), False), ((SVI, CompiledSVI), False), ((SVI, CompiledSVI), True), ((CompiledSVI,) * 2, True)],
    ids=["to a file", "from a file", "from steps of Pyro's", "from steps of ours"],
)
def test_the_state_of_pyros_optimizer(as_traced, settings, way, kept, tmp_path):
    """What one has learned of gradients, the other goes on with."""
    losses = []
    for kinds in (way, (SVI, SVI)):
        pyro.clear_param_store()
        torch.manual_seed(0)
        optim, found = pyro.optim.Adam(settings), []
        for kind in kinds:
            svi = kind(poisson, gamma, optim, TraceMeanField_ELBO())
            found += [svi.step(COUNTS) for _ in range(4)]
            if not kept:
                optim.save(tmp_path / "state.pt")
                optim = pyro.optim.Adam(settings)
                optim.load(tmp_path / "state.pt")
        losses.append(found)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and as_traced


@dataclasses.dataclass
class Batch:
    counts: torch.Tensor


def of_numpy():
    return lambda counts: poisson(torch.as_tensor(counts)), gamma, Trace_ELBO(), (COUNTS.numpy(),), {}


def of_an_object():
    return lambda batch: poisson(batch.counts), gamma, Trace_ELBO(), (Batch(COUNTS),), {}


def growing():
    """One more parameter at each step."""
    names = []

    def guide(counts):
        names.append(f"more {len(names)}")
        shift = sum(pyro.param(name, torch.tensor(0.1)) for name in names)
        pyro.sample("rate", dist.LogNormal(shift, 1.0))

    return poisson, guide, Trace_ELBO(), (COUNTS,), {}


def several_losses():
    return poisson, gamma, ReweightedWakeSleep(num_particles=3), (COUNTS,), {}


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (of_numpy, "an argument is a ndarray, whose changes no graph sees: pass tensors and numbers"),
        (of_an_object, "an argument is a Batch, whose changes no graph sees: pass tensors and numbers"),
        (growing, r"the program makes parameters as it goes \(more 1\)"),
        (several_losses, "ReweightedWakeSleep does more at a step than take a gradient"),
    ],
)
def test_what_is_no_graph_is_run_all_the_same(as_traced, program, reason):
    with pytest.warns(UserWarning, match=f"^steps are not compiled, but run by Pyro: {reason}$"):
        losses, found, svi = taken(CompiledSVI, program)
    assert svi.reason and not as_traced
    pyros, theirs, _ = taken(SVI, program)
    # Its Python has run once more, to be traced.
    assert set(found) - set(theirs) == ({"more 6"} if program is growing else set())
    if program is not growing:
        agree((losses, found), (pyros, theirs))
    else:
        assert losses[:1] == pyros[:1] and found["more 0"] != 0.1 and found["more 3"] != 0.1


def test_a_program_without_parameters(as_traced):
    """There is nothing to move, and nothing is compiled for it."""

    def program():
        return poisson, lambda counts: pyro.sample("rate", dist.Gamma(2.0, 1.0)), Trace_ELBO(), (COUNTS,), {}

    agree(taken(CompiledSVI, program), taken(SVI, program))
    assert not as_traced


def test_equal_arguments_of_other_types_have_graphs_of_their_own(as_traced):
    def model(x, which):
        loc = pyro.param("loc", torch.tensor(0.0))
        pyro.sample("x", dist.Normal(loc + (1.0 if which is True else 0.0), 1.0).expand(x.shape).to_event(1), obs=x)

    svi = CompiledSVI(model, lambda *_: None, pyro.optim.SGD({"lr": 0.0}), Trace_ELBO())
    losses = {repr(which): [svi.step(Y, which) for _ in range(2)] for which in (1, True, 1.0)}
    assert losses["1"] == losses["1.0"] != losses["True"]
    assert losses["True"][0] == pytest.approx(losses["True"][1], rel=1e-6)
    assert len(as_traced) == 3


@pytest.mark.parametrize("settings", [{"lr": 0.1}, of_each], ids=["one for all", "each its own"])
@pytest.mark.parametrize("what", ["all", "one", "of another program"])
def test_parameters_that_the_store_has_no_more(as_traced, what, settings):
    """Cleared between runs, as notebooks do, or given another value: as by Pyro."""
    ends = []
    for kind in (SVI, CompiledSVI):
        pyro.clear_param_store()
        pyro.param("of another program", torch.tensor(1.0))
        model, guide, loss, args, _ = rejection()
        svi, losses = kind(model, guide, pyro.optim.Adam(settings), loss), []
        # Of one that has taken fewer steps than the others no graph is made.
        warned = what == "one" and kind is CompiledSVI
        with pytest.warns(UserWarning, match="have taken more steps than others") if warned else nullcontext():
            for run in range(3):
                torch.manual_seed(run)
                losses += [svi.step(*args) for _ in range(3)]
                if what == "all":
                    pyro.clear_param_store()
                else:
                    pyro.get_param_store()["concentration" if what == "one" else what] = torch.tensor(3.0)
                losses.append(svi.evaluate_loss(*args))
        ends.append((losses, {name: value.detach().clone() for name, value in pyro.get_param_store().items()}))
    agree(*ends)
    assert len(as_traced) == {"all": 3, "one": 1, "of another program": 2}[what]


def test_modules_of_which_the_store_is_told_again(as_traced):
    """Their parameters are where they were, and so is the optimizer's state."""
    ends = []
    for clear in (False, True):
        pyro.clear_param_store()
        torch.manual_seed(0)
        markov = Markov()
        svi = CompiledSVI(markov.model, markov.guide, torch.optim.Adam(markov.parameters(), lr=0.01), Trace_ELBO())
        for step in range(5):
            if clear and step == 3:
                pyro.clear_param_store()
            loss = svi.step(PIXELS)
        ends.append(loss)
        assert "markov$$$rnn.weight_ih_l0" in pyro.get_param_store()
    assert ends[0] == pytest.approx(ends[1], rel=1e-5) and len(as_traced) == 3
