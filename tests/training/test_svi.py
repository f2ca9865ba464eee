"""The compiled step against Pyro's own: same draws, same losses, same parameters; and when there is none."""

import copy
import importlib
import itertools
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch._inductor.compile_fx
from pyro.distributions import constraints
from pyro.infer import SVI, Trace_ELBO
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import pyrovae
from pyrovae import VAE, CompiledSVI, elbos
from pyrovae.training import traced, update
from pyrovae.training.optimizers import Joint

X = torch.randn(23, 3, generator=torch.Generator().manual_seed(0))
BATCHES = [X[:10], X[10:20], X[20:], X[:10], X[10:20], X[20:]]
ESTIMATORS = ["elbo", "mean_field_elbo", "dreg", "gdreg", "tvo", "vimco", "rws", "free_bits"]
OTHERS = [
    "iwae", "stl", "renyi", "miwae", "ciwae", "piwae", "score_function", "tail_adaptive", "jackknife", "cubo",
    "total_correlation", "dip", "info_vae",
]  # fmt: skip
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in OTHERS]
MACHINE_CODE = ["elbo", pytest.param("dreg", marks=pytest.mark.slow)]


def steps(svi, batches=BATCHES, dtype=torch.float32, **kwargs):
    torch.manual_seed(1)
    return [svi.step(batch.to(dtype), **kwargs) for batch in batches]


# Where the optimizer is not the point: much of what is traced of a step of Adam are its own operations.
SMALL = {"optimizer": "sgd", "lr": 3e-4}


def sgd(params, lr):
    return torch.optim.SGD(params, lr=lr / 100)


def both(make_vae, estimator, particles, optimizer=None, **kwargs):
    """Losses and VAEs after the same steps, compiled and by Pyro."""
    result = []
    for kind in (CompiledSVI, SVI):
        torch.manual_seed(0)
        vae = make_vae().double()
        loss = elbos.for_fit(elbos.make(estimator, particles))
        if isinstance(loss, elbos.TotalCorrelation):
            loss.num_rows = 90
        made = (optimizer or torch.optim.Adam)(vae.parameters(), lr=0.01)
        if kind is SVI:
            svi = SVI(vae.model, vae.guide, Joint(made), loss)
        else:
            svi = CompiledSVI(vae.model, vae.guide, made, loss)
        result += [steps(svi, dtype=torch.float64, **kwargs), vae]
    return *result, svi


def close(a, b, atol):
    for (name, ours), theirs in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=atol), name


@pytest.mark.parametrize("estimator", ESTIMATORS + SLOW)
def test_steps_are_pyros(tiny, as_traced, estimator):
    """Of batches and a subsample, with a graph for each of the two shapes."""
    optimizer = None if estimator == "elbo" else sgd
    ours, vae, theirs, other, _ = both(lambda: tiny(prior="normal(learned=True)"), estimator, 4, optimizer, size=90)
    assert len(as_traced) == 2
    assert ours == pytest.approx(theirs, rel=1e-9)
    close(vae, other, 1e-9)


@pytest.mark.parametrize("estimator", MACHINE_CODE)
def test_machine_code_does_the_same(tiny, estimator):
    batches = [X[:10], X[10:20], X[:10], X[10:20]]
    ours, vae, theirs, other, _ = both(tiny, estimator, 3, batches=batches)
    assert ours == pytest.approx(theirs, rel=1e-9)
    close(vae, other, 1e-9)


@pytest.mark.parametrize(
    ("prior", "posterior", "likelihood"),
    [("vamp(components=3)", "normal", "gaussian(scale=shared)"), ("mixture(components=2)", "iaf", "student_t"),
     ("gamma", "gamma", "laplace"), ("dirichlet", "normal", "gaussian(scale=network)"),
     ("uniform", "student_t", "gaussian(scale=optimal)"), ("power_spherical", "power_spherical", "gaussian")],
)  # fmt: skip
def test_the_swap_board(as_traced, prior, posterior, likelihood):
    def make():
        return VAE((3,), 3, prior=prior, posterior=posterior, likelihood=likelihood)

    ours, vae, theirs, other, _ = both(make, "elbo", 1, sgd)
    assert as_traced
    assert ours == pytest.approx(theirs, rel=1e-9)
    close(vae, other, 1e-9)


def test_batch_norm_and_dropout(as_traced):
    """Running statistics are inputs of the graph, which writes them; each step drops other features."""
    network = "mlp(hidden=[8], norm=batch, dropout=0.3)"
    ours, vae, theirs, other, _ = both(lambda: VAE((3,), 2, likelihood="gaussian", encoder=network), "elbo", 1, sgd)
    assert ours == pytest.approx(theirs, rel=1e-9)
    close(vae, other, 1e-9)
    norm = next(m for m in vae.modules() if isinstance(m, nn.BatchNorm1d))
    assert norm.num_batches_tracked == len(BATCHES) and norm.running_mean.any()


@pytest.mark.parametrize(
    "make",
    [
        lambda p, lr: torch.optim.Adam(p, lr=lr, weight_decay=0.1, betas=(0.8, 0.95), eps=1e-3),
        lambda p, lr: torch.optim.AdamW(p, lr=lr, weight_decay=0.2),
        lambda p, lr: torch.optim.SGD(p, lr=lr / 100),
        lambda p, lr: torch.optim.SGD(p, lr=lr / 100, momentum=0.9, weight_decay=0.1),
        lambda p, lr: torch.optim.SGD(p, lr=lr / 100, momentum=0.9, nesterov=True),
        lambda p, lr: torch.optim.Adam(p, lr=lr, amsgrad=True),
        lambda p, lr: torch.optim.RMSprop(p, lr=lr),
    ],
    ids=["adam", "adamw", "sgd", "momentum", "nesterov", "amsgrad", "rmsprop"],
)
def test_optimizers(tiny, as_traced, make):
    """In the graph, or after it where they are not written for it."""
    ours, vae, theirs, other, _ = both(tiny, "elbo", 1, optimizer=make, batches=[X[:10], X[10:20]] * 3)
    assert len(as_traced) == 1 and ours == pytest.approx(theirs, rel=1e-9)
    close(vae, other, 1e-9)


def test_the_state_is_the_optimizers(tiny, as_traced):
    """Compiled steps go on where eager ones stopped, and the other way round."""
    vaes, optimizers = [tiny(), tiny()], []
    for vae, compiled in zip(vaes, (True, False), strict=True):
        optimizers.append(torch.optim.Adam(vae.parameters(), lr=0.01))
        eager = SVI(vae.model, vae.guide, Joint(optimizers[-1]), Trace_ELBO())
        mixed = CompiledSVI(vae.model, vae.guide, optimizers[-1], Trace_ELBO()) if compiled else eager
        torch.manual_seed(1)
        for svi in (eager, mixed, mixed, mixed, eager, mixed):
            svi.step(X)
    assert len(as_traced) == 1
    close(*vaes, 1e-6)
    ours, theirs = (optimizer.state_dict()["state"] for optimizer in optimizers)
    assert [state["step"].item() for state in ours.values()] == [6] * len(ours)
    for a, b in zip(ours.values(), theirs.values(), strict=True):
        assert torch.allclose(a["exp_avg_sq"], b["exp_avg_sq"], rtol=1e-4)


@pytest.mark.parametrize("norm", [0.5, 1e6])
def test_clip_norm(tiny, as_traced, norm):
    vae, other = tiny(), tiny()
    ours = CompiledSVI(vae.model, vae.guide, torch.optim.SGD(vae.parameters(), lr=1e-2), Trace_ELBO(), clip_norm=norm)
    theirs = SVI(other.model, other.guide, Joint(torch.optim.SGD(other.parameters(), lr=1e-2), norm), Trace_ELBO())
    assert steps(ours) == pytest.approx(steps(theirs), rel=1e-5)
    close(vae, other, 1e-5)


def test_rate_and_weight_change_without_another_graph(tiny, as_traced):
    vae = tiny()
    weight = elbos.KLWeight(torch.tensor(1.0))
    optimizer = torch.optim.Adam(vae.parameters(), lr=0.01)
    svi = CompiledSVI(weight(vae.model), weight(vae.guide), optimizer, Trace_ELBO())
    svi.step(X)
    svi.step(X)
    before = copy.deepcopy(vae.state_dict())
    optimizer.param_groups[0]["lr"] = 0.0
    losses = []
    for value in (0.0, 1.0, 2.0):
        weight.weight.fill_(value)
        torch.manual_seed(3)
        losses.append(svi.step(X))
    assert all(torch.equal(value, before[key]) for key, value in vae.state_dict().items())
    # The loss is linear in the weight, at the same draws.
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-4) and losses[0] != losses[1]
    assert len(as_traced) == 1


def test_any_program_of_pyro(as_traced):
    """Parameters of the store, with constraints; a discrete site by the score function; other plates; keywords."""

    def model(x, *, rate):
        loc = pyro.param("loc", torch.tensor([0.5, -0.5]))
        sd = pyro.param("sd", torch.tensor(2.0), constraint=constraints.positive)
        with pyro.plate("rows", len(x)):
            on = pyro.sample("on", dist.Bernoulli(rate))
            pyro.sample("x", dist.Normal(loc[on.long()], sd), obs=x[:, 0])

    def guide(x, *, rate):
        logit = pyro.param("logit", torch.zeros(len(x)))
        with pyro.plate("rows", len(x)):
            pyro.sample("on", dist.Bernoulli(logits=logit))

    found = []
    for kind in (CompiledSVI, SVI):
        pyro.clear_param_store()
        svi = kind(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
        torch.manual_seed(2)
        losses = [svi.step(X, rate=0.3) for _ in range(5)]
        store = pyro.get_param_store()
        found.append((losses, {name: store[name].detach().clone() for name in ("loc", "sd", "logit")}))
    (ours, here), (theirs, there) = found
    assert as_traced and ours == pytest.approx(theirs, rel=1e-5)
    assert here["sd"] != 2 and all(torch.allclose(here[name], there[name], atol=1e-6) for name in here)


def test_draws_are_new_at_each_step_and_follow_the_seed(tiny, as_traced):
    vae = tiny()
    svi = CompiledSVI(vae.model, vae.guide, torch.optim.SGD(vae.parameters(), lr=0.0), Trace_ELBO())
    svi.step(X)
    svi.step(X)
    runs = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        runs.append([svi.step(X) for _ in range(30)])
    assert runs[0] == runs[1] != runs[2] and len(set(runs[0])) == 30
    losses = torch.tensor(runs[0] + runs[2])
    eager = torch.tensor([Trace_ELBO().loss(vae.model, vae.guide, X) for _ in range(60)])
    assert abs(losses.mean() - eager.mean()) < 4 * (losses.var() / 60 + eager.var() / 60).sqrt()
    assert 0.5 < losses.std() / eager.std() < 2
    torch.manual_seed(0)
    evaluated = svi.evaluate_loss(X)
    assert abs(evaluated - eager.mean()) < 6 * eager.std()


def test_the_first_step_of_a_shape_is_checked(tiny):
    vae = tiny(likelihood="bernoulli")
    svi = CompiledSVI(vae.model, vae.guide, torch.optim.Adam(vae.parameters()), Trace_ELBO())
    for _ in range(2):
        with pytest.raises(ValueError, match="expected 0 or 1"):
            svi.step(X)


# When there is no graph


def looks(x):
    """A program that looks at its numbers."""
    scale = pyro.param("scale", torch.tensor(1.0))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        if z.detach().sum().item() > 0:
            z = z * scale
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])


def looks_guide(x):
    loc = pyro.param("guide_loc", torch.tensor(0.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(loc, 1.0))


def test_what_cannot_be_traced_is_run_by_pyro_and_says_so_once():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        svi = CompiledSVI(looks, looks_guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
        ours = steps(svi)
    reason = "Python looks at the value of a tensor"
    assert [str(w.message) for w in caught] == [f"steps are not compiled, but run by Pyro: {reason}"]
    assert svi.reason == reason
    moved = pyro.get_param_store()["guide_loc"].item()
    pyro.clear_param_store()
    assert steps(SVI(looks, looks_guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())) == pytest.approx(ours, rel=1e-6)
    assert pyro.get_param_store()["guide_loc"].item() == pytest.approx(moved, rel=1e-6) and moved != 0


def test_gradients_are_reduced_before_they_are_clipped(tiny, as_traced):
    """Halved in place, as two equal processes would: compiled and by Pyro, the same steps; and one without data."""
    ends = []
    for compiled in (False, True):
        vae, norms, told = tiny().double(), [], []

        def halve(params, loss, norms=norms, told=told):
            told.append(loss)
            for p in params:
                p.grad = None if p.grad is None else p.grad / 2
            norms.append(sum(p.grad.square().sum().item() for p in params if p.grad is not None) ** 0.5)

        svi = CompiledSVI(
            vae.model, vae.guide, torch.optim.SGD(vae.parameters(), lr=1.0), Trace_ELBO(), clip_norm=1.0,
            worth=lambda *_, compiled=compiled: compiled, reduce=halve,
        )  # fmt: skip
        before = torch.cat([p.detach().flatten() for p in vae.parameters()])
        losses = steps(svi, [X[:10], X[10:20]], torch.float64)
        assert bool(as_traced) == compiled and min(norms) > 2, "clipped first"
        ends.append((losses, torch.cat([p.detach().flatten() for p in vae.parameters()])))
        assert (ends[-1][1] - before).norm() <= 2 + 1e-6
        assert svi.idle() == 0 and told == [*losses, 0.0]
        assert torch.equal(ends[-1][1], torch.cat([p.detach().flatten() for p in vae.parameters()]))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-9) and torch.allclose(ends[0][1], ends[1][1], rtol=1e-9)


@pytest.mark.parametrize("name", ["factor_vae", "capacity", "graph_elbo"])
def test_estimators_that_do_more_than_take_a_gradient(tiny, name):
    vae = tiny()
    svi = CompiledSVI(vae.model, vae.guide, torch.optim.Adam(vae.parameters()), elbos.make(name))
    svi.step(X)
    with pytest.warns(UserWarning, match="not compiled, but run by Pyro: .* does more at a step than take a gradient"):
        svi.step(X)
    assert svi.step(X) != svi.step(X)


def test_an_estimator_that_looks(tiny):
    vae = tiny()
    svi = CompiledSVI(vae.model, vae.guide, torch.optim.Adam(vae.parameters()), elbos.make("contractive"))
    svi.step(X)
    with pytest.warns(UserWarning, match="not compiled, but run by Pyro: Python looks at the value of a tensor"):
        svi.step(X)


def test_a_machine_without_a_compiler(tiny, monkeypatch):
    def broken(*_, **options):
        raise RuntimeError("InvalidCxxCompiler: no working C++ compiler\nand more")

    monkeypatch.setattr(traced, "compiled", broken)
    vae, other = tiny(), tiny()
    svi = CompiledSVI(vae.model, vae.guide, torch.optim.Adam(vae.parameters(), lr=0.01), Trace_ELBO())
    with pytest.warns(UserWarning, match="no working C[+][+] compiler$"):
        ours = steps(svi)
    theirs = steps(SVI(other.model, other.guide, Joint(torch.optim.Adam(other.parameters(), lr=0.01)), Trace_ELBO()))
    assert ours == pytest.approx(theirs, rel=1e-6)
    close(vae, other, 1e-6)


@pytest.mark.parametrize("missing", [(), ("inner",), ("inner", "outer")], ids=len)
def test_a_torch_without_an_entry_to_inductor(missing, monkeypatch):
    """The next one is asked, and what it makes reads and writes what the function closes over."""
    entries = {
        "inner": (torch._inductor.compile_fx, "compile_fx_inner"),
        "outer": (torch._inductor, "compile"),
        "public": (torch, "compile"),
    }
    asked = []
    for name, (module, function) in entries.items():
        if name in missing:
            monkeypatch.delattr(module, function)
        else:
            real = getattr(module, function)
            monkeypatch.setattr(module, function, lambda *a, n=name, f=real, **k: (asked.append(n), f(*a, **k))[1])
    total = torch.zeros(3)

    def function(x):
        total.add_(x)
        return (x * total,)

    compiled, wanted = traced.Traced(function), torch.zeros(3)
    for i in range(3):
        x = torch.arange(3.0) + i
        wanted += x
        assert torch.equal(compiled(x)[0], x * wanted) and torch.equal(total, wanted)
    assert asked[0] == list(entries)[len(missing)]


def test_what_is_refused(tiny):
    vae = tiny()
    with pytest.raises(ValueError, match="precision: expected one of float32, bfloat16, got 'half'"):
        CompiledSVI(vae.model, vae.guide, torch.optim.Adam(vae.parameters()), Trace_ELBO(), precision="half")
    schedule = {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}, "gamma": 0.5}
    for optim in (
        pyro.optim.ExponentialLR(schedule),
        pyro.optim.Adam({"lr": 0.1}, {"clip_norm": 1.0}),
    ):
        with pytest.raises(ValueError, match="optim: expected a torch optimizer, or one of pyro.optim that neither"):
            CompiledSVI(vae.model, vae.guide, optim, Trace_ELBO())


def test_groups_with_rates_of_their_own(tiny, as_traced):
    vaes = [tiny(), tiny()]
    for vae, kind in zip(vaes, (CompiledSVI, SVI), strict=True):
        groups = [{"params": vae.posterior.parameters(), "lr": 0.0}, {"params": vae.likelihood.parameters()}]
        optimizer = torch.optim.Adam(groups, lr=0.01)
        steps(kind(vae.model, vae.guide, Joint(optimizer) if kind is SVI else optimizer, Trace_ELBO()))
    close(*vaes, 1e-6)
    close(vaes[0].posterior, tiny().posterior, 0)


# In fit


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"clip_norm": 1.0},
        {"beta": 0.5, "warmup": 2.0, **SMALL},
        {"elbo": "free_bits", "beta": 2.0, "warmup": 1.0, **SMALL},
        {"elbo": "iwae", "num_particles": 3, **SMALL},
        {"schedule": "cosine", "optimizer": "sgd(momentum=0.5)", "lr": 1e-4},
    ],
    ids=str,
)
def test_a_compiled_fit_is_the_eager_one(tiny, as_traced, settings):
    """Run as traced, it draws what Pyro draws: histories and weights agree."""
    options = {"epochs": 3, "batch_size": 10, "progress": False, "validation": X[:5], **settings}
    vaes = [tiny(), tiny()]
    ours, theirs = (
        pyrovae.fit(vae, X, compile=compiled, **options) for vae, compiled in zip(vaes, (True, False), strict=True)
    )
    assert len(as_traced) == 2
    columns = [name for name in ours.columns if name != "seconds"]
    assert ours[columns].to_numpy() == pytest.approx(theirs[columns].to_numpy(), rel=1e-4)
    close(*vaes, 1e-5)


def test_auto_compiles_what_has_many_steps(tiny, as_traced, monkeypatch):
    monkeypatch.setattr(importlib.import_module("pyrovae.training.fit"), "WORTH", 6)
    for epochs, graphs in ((2, 0), (3, 1), (6, 2)):
        as_traced.clear()
        pyrovae.fit(tiny(), X, epochs=epochs, batch_size=10, progress=False, **SMALL)  # 10, 10 and 3 rows an epoch
        assert len(as_traced) == graphs


class Looks(TorchDispatchMode):
    """Counts how often Python looks at a number of a tensor."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_a_gpu_is_not_waited_for(tiny, as_traced, monkeypatch):
    """As if numbers lay on one: Python looks at none of them from step to step, and the fit is the same."""
    vaes, histories, looks = [tiny(), tiny()], [], []
    for vae, wait in zip(vaes, (False, True), strict=True):
        for module in ("update", "watch"):
            monkeypatch.setattr(importlib.import_module(f"pyrovae.training.{module}"), "waits", lambda _, w=wait: w)
        each = []

        def counted(vae, row, each=each):
            each.append(mode.count)

        with Looks() as mode:
            histories.append(
                pyrovae.fit(
                    vae, X.repeat(10, 1), epochs=4, batch_size=23, progress=False, compile=True, callbacks=[counted]
                )
            )
        looks.append([b - a for a, b in itertools.pairwise(each)])
    close(*vaes, 0)
    columns = [name for name in histories[0].columns if name != "seconds"]
    assert histories[0][columns].equals(histories[1][columns])
    # All losses of an epoch are one look, and its three means are three.
    assert looks[1][1:] == [3, 3] and looks[0][1:] == [23, 23]


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize(("step", "back"), [(1, 1), (2, 2)])
def test_the_first_loss_that_is_not_finite_is_named(tiny, as_traced, monkeypatch, wait, step, back):
    """In epoch 3: where it is the first with the weights of epoch 2, those are not to be trusted."""
    for module in ("update", "watch"):
        monkeypatch.setattr(importlib.import_module(f"pyrovae.training.{module}"), "waits", lambda _: wait)
    vae, calls = tiny(), []

    def spoil(batch, generator):
        calls.append(batch)
        # One of all data, and three steps an epoch.
        if len(calls) == 7 + step:
            with torch.no_grad():
                next(vae.parameters()).fill_(torch.nan)
        return batch

    message = f"got nan at epoch 3, step {step}. The model has the weights of epoch {back} back"
    with pytest.raises(FloatingPointError, match=message):
        pyrovae.fit(vae, X, transform=spoil, epochs=4, batch_size=10, progress=False, compile=True)
    assert all(p.isfinite().all() for p in vae.parameters())


def test_an_optimizer_that_moves_by_itself_is_noticed(tiny, as_traced, monkeypatch):
    """Though nobody looks at its state: a step of its own, and a state that is put back."""
    monkeypatch.setattr(update, "waits", lambda _: True)
    vaes = [tiny(), tiny()]
    for vae, kind in zip(vaes, (CompiledSVI, SVI), strict=True):
        adam = torch.optim.Adam(vae.parameters(), lr=0.01)
        svi = kind(vae.model, vae.guide, Joint(adam) if kind is SVI else adam, Trace_ELBO())
        torch.manual_seed(1)
        for move in (svi.step, svi.step, lambda _, a=adam: a.step(), svi.step, svi.step):
            move(X)
        state = adam.state_dict()
        for each in state["state"].values():
            each["step"] = torch.tensor(100.0)
        adam.load_state_dict(state)
        svi.step(X)
        svi.step(X)
        assert {float(each["step"]) for each in adam.state.values()} == {102.0}
    assert len(as_traced) == 2
    close(*vaes, 1e-6)


def test_what_a_transform_makes_is_checked_in_compiled_steps_too(tiny, as_traced):
    calls = []

    def broken(batch, generator):
        calls.append(len(batch))
        return torch.full_like(batch, 2.0) if len(calls) > 8 else (batch > 0).float()

    with pytest.raises(ValueError, match="expected 0 or 1"):
        pyrovae.fit(
            tiny(likelihood="bernoulli"), X, transform=broken, epochs=9, batch_size=10, progress=False, compile=True,
            **SMALL,
        )  # fmt: skip
    assert as_traced


def test_labels_layers_and_missing_cells(as_traced):
    holes = torch.where(torch.rand(X.shape, generator=torch.Generator().manual_seed(0)) < 0.3, torch.nan, X)
    holes[:, 0] = X[:, 0]
    labels = torch.arange(len(X)) % 4 - 1
    cases = [
        (VAE((3,), [3, 2], likelihood="gaussian", inference="top_down"), X, None),
        (VAE((3,), 2, likelihood="gaussian", missing="mask"), holes, None),
        (VAE((3,), 2, likelihood="gaussian", missing="mask", mechanism="self_masking"), holes, None),
        (VAE((3,), 2, likelihood="gaussian", condition_dim=1), X, X[:, :1]),
        (VAE((3,), 2, likelihood="gaussian", label=3, label_weight=2.0), X, labels),
    ]
    for vae, x, condition in cases:
        other = copy.deepcopy(vae)
        as_traced.clear()
        for each, compiled in ((vae, True), (other, False)):
            pyrovae.fit(each, x, condition, epochs=3, batch_size=23, progress=False, compile=compiled, **SMALL)
        assert len(as_traced) == 1
        close(vae, other, 3e-6)


def test_bfloat16(tiny, as_traced):
    """Matrix products are in it, log-densities are not: near to float32, and not the same."""
    losses = []
    for precision in ("float32", "bfloat16"):
        vae = tiny(encoder="mlp(hidden=[64])", decoder="mlp(hidden=[64])")
        optimizer = torch.optim.Adam(vae.parameters(), lr=0.01)
        svi = CompiledSVI(vae.model, vae.guide, optimizer, Trace_ELBO(), precision=precision)
        losses.append(steps(svi))
    assert losses[1] == pytest.approx(losses[0], rel=0.02) and losses[1] != losses[0]
    kinds = {
        str(node.meta["val"].dtype) for node in as_traced[-1].graph.nodes if node.target is torch.ops.aten.mm.default
    }
    assert kinds == {"torch.bfloat16"}
    with pytest.raises(ValueError, match="precision: expected one of float32, bfloat16"):
        pyrovae.fit(tiny(), X, precision="float16")
    with pytest.raises(ValueError, match="compile: expected True, False or auto, got 'yes'"):
        pyrovae.fit(tiny(), X, compile="yes")


def test_update_is_traceable_only_where_it_is_the_same():
    p = [nn.Parameter(torch.zeros(2))]
    assert update.traceable(torch.optim.AdamW(p)) and update.traceable(torch.optim.SGD(p, lr=1.0, momentum=0.5))
    for optimizer in (
        torch.optim.Adam(p, amsgrad=True), torch.optim.Adam(p, maximize=True), torch.optim.RMSprop(p),
        torch.optim.SGD(p, lr=1.0, momentum=0.5, dampening=0.1), torch.optim.NAdam(p),
    ):  # fmt: skip
        assert not update.traceable(optimizer)


def test_parameters_that_have_taken_different_numbers_of_steps(tiny, as_traced):
    """Adam's corrections are the same for all in a graph; where they are not, the steps are Pyro's."""
    vae = tiny()
    adam = torch.optim.Adam(vae.parameters(), lr=0.01)
    svi = CompiledSVI(vae.model, vae.guide, adam, Trace_ELBO())
    steps(svi, [X, X])
    for step, p in enumerate(vae.parameters()):
        adam.state[p]["step"].fill_(5 + step)
    with pytest.warns(UserWarning, match="not compiled, but run by Pyro: some parameters have taken more steps"):
        steps(svi, [X])
