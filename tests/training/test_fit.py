"""`fit`: what it reports, what it changes, when it stops, and what it leaves behind."""

import copy
import math
import time

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import infer
from torch import nn

import pyrovae
from pyrovae import VAE, elbos, fit
from pyrovae.modes import evaluating, isolated
from pyrovae.training.batches import bounds
from pyrovae.training.best import Best

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
V = torch.randn(9, 3, generator=torch.Generator().manual_seed(1))
STILL = dict(lr=1e-300, optimizer="sgd", progress=False)
COLUMNS = ["elbo", "reconstruction", "kl", "objective", "beta", "lr", "seconds"]


def run(vae, x=X, **arguments):
    return fit(vae, x, **{"epochs": 2, "batch_size": 7, "progress": False, **arguments})


def state(vae):
    return {key: value.clone() for key, value in vae.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# Rows


@pytest.mark.parametrize(
    ("n", "batch_size"), [(1, 1), (1, 8), (7, 3), (8, 3), (9, 4), (10, 10), (21, 10), (5, 1), (2, 1)]
)
def test_every_row_is_used_once_an_epoch(tiny, n, batch_size):
    seen = []

    def record(batch, generator):
        seen.append(batch[:, 0].long().tolist())
        return batch

    ids = torch.arange(float(n))[:, None].expand(n, 3)
    run(tiny(), ids, batch_size=batch_size, epochs=3, transform=record)
    seen = seen[1:]  # the first is the look that fit takes at the data
    steps = len(bounds(n, batch_size))
    assert len(seen) == 3 * steps
    epochs = [sum(seen[i * steps : (i + 1) * steps], []) for i in range(3)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert n < 5 or len({tuple(epoch) for epoch in epochs}) == 3, "not shuffled anew"
    sizes = [len(batch) for batch in seen[:steps]]
    assert sizes[:-1] == [batch_size] * (steps - 1)
    assert sizes[-1] == n or 1 <= sizes[-1] <= batch_size + 1


@pytest.mark.parametrize("batch_size", [2, 3, 5, 7])
@pytest.mark.parametrize("n", [1, 2, 3, 6, 7, 8, 15, 22])
def test_bounds(n, batch_size):
    parts = bounds(n, batch_size)
    assert [row for first, last in parts for row in range(first, last)] == list(range(n))
    sizes = [last - first for first, last in parts]
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
    assert sizes == [1] if n == 1 else 2 <= sizes[-1] <= batch_size + 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("n", "batch_size"), [(21, 5), (21, 20), (21, 4), (21, 1), (21, 64), (22, 7), (20, 3)])
def test_the_epochs_elbo_is_that_of_all_rows(linear, n, batch_size, dtype):
    """With the exact posterior and weights that stand still: the mean of log p(x), whatever the last batch's size."""
    exact = linear(n=n, dtype=dtype)
    before = state(exact.vae)
    history = fit(exact.vae, exact.x, validation=exact.x, batch_size=batch_size, epochs=2, **STILL)
    for key, value in state(exact.vae).items():
        assert torch.allclose(value, before[key], rtol=0, atol=1e-290), "the weights moved"
    expected = exact.log_prob.mean().item()
    for column in ("elbo", "objective", "validation_elbo"):
        assert history[column].tolist() == pytest.approx([expected] * 2, rel=1e-6)
    assert exact.log_prob.std() > 0.1
    assert (history["elbo"] - history["reconstruction"] + history["kl"]).abs().max() < 1e-9


def test_validation_in_several_chunks_weighs_rows_equally(linear):
    """1025 + 1024 rows of validation, of which the last chunk has one row too many for a batch of 1024."""
    exact = linear(n=2049)
    history = fit(exact.vae, exact.x[:5], validation=exact.x, epochs=1, **STILL)
    assert history["validation_elbo"].item() == pytest.approx(exact.log_prob.mean().item(), rel=1e-10)


class Norm(nn.Module):
    """A user's network with BatchNorm."""

    def __init__(self, width):
        super().__init__()
        self.layer, self.norm, self.drop = nn.Linear(width, 6), nn.BatchNorm1d(6), nn.Dropout(0.2)

    def forward(self, x):
        return self.drop(torch.relu(self.norm(self.layer(x))))


@pytest.fixture
def normed(tiny):
    def make(**arguments):
        torch.manual_seed(0)
        return tiny(encoder=Norm(3), decoder=Norm(2), **arguments)

    return make


@pytest.mark.parametrize(("n", "batch_size"), [(15, 7), (8, 7), (3, 2), (9, 4)])
def test_batch_norm_with_a_single_row_left_over(normed, n, batch_size):
    vae = normed()
    history = run(vae, X[:n], batch_size=batch_size)
    assert history["elbo"].notna().all()
    assert vae.posterior.network.norm.num_batches_tracked == 2 * len(bounds(n, batch_size))


@pytest.mark.parametrize(("n", "batch_size"), [(9, 1), (1, 8), (1, 1)])
def test_batch_norm_with_batches_of_one(normed, n, batch_size):
    vae = normed()
    before = state(vae)
    with pytest.raises(ValueError, match=r"network\.norm is a BatchNorm1d, which needs batches of at least 2 rows"):
        run(vae, X[:n], batch_size=batch_size)
    assert equal(state(vae), before)


@pytest.mark.parametrize("what", ["parameters", "buffers"])
def test_validation_moves_nothing(normed, what):
    """Training with and without validation is the same, number for number, up to the weights that are kept."""
    seen = {}
    for validation in (None, V):
        vae = normed()
        weights = []

        def keep(vae, row, weights=weights):
            weights.append(state(vae))

        history = run(vae, epochs=4, validation=validation, callbacks=[keep])
        seen[validation is None] = weights, history[["elbo", "reconstruction", "kl", "objective"]]
    assert all(equal(a, b) for a, b in zip(seen[True][0], seen[False][0], strict=True))
    pd.testing.assert_frame_equal(seen[True][1], seen[False][1], check_exact=True)


def test_the_look_before_the_first_step_moves_no_statistic(normed):
    vae = normed()
    tracked = []

    def stop(batch, generator):
        tracked.append(int(vae.posterior.network.norm.num_batches_tracked))
        return batch

    run(vae, epochs=1, batch_size=20, transform=stop)
    assert tracked == [0, 0] and vae.posterior.network.norm.num_batches_tracked == 1


# The history


@pytest.mark.parametrize("validation", [False, True])
def test_columns_and_attributes(tiny, validation):
    history = run(tiny(), epochs=3, validation=V if validation else None, seed=11)
    extra = [f"validation_{key}" for key in ("elbo", "reconstruction", "kl")] * validation
    assert sorted(history.columns) == sorted(COLUMNS + extra)
    assert history.index.tolist() == [1, 2, 3] and history.index.name == "epoch"
    assert not history.isna().any().any() and (history["seconds"] > 0).all()
    attributes = {"seed": 11, "device": "cpu", "elbo": "elbo", "stopped": "epochs"}
    assert attributes.items() <= history.attrs.items()
    best = int(history["validation_elbo"].idxmax()) if validation else 3
    assert history.attrs["best_epoch"] == best


@pytest.mark.parametrize(
    ("elbo", "num_particles"), [("elbo", 1), ("elbo", 5), ("graph_elbo", 1), ("graph_elbo", 3), ("enum_elbo", 4)]
)
def test_the_objective_of_a_plain_elbo_is_the_elbo(tiny, elbo, num_particles):
    history = run(tiny(), elbo=elbo, num_particles=num_particles, epochs=3)
    assert history["objective"].tolist() == pytest.approx(history["elbo"].tolist(), rel=1e-6)
    assert history["elbo"].nunique() == 3


def test_the_objective_of_looped_particles(tiny):
    history = run(tiny(), elbo=infer.Trace_ELBO(num_particles=3), epochs=3)
    assert history["objective"].tolist() == pytest.approx(history["elbo"].tolist(), rel=1e-6)
    assert history.attrs["elbo"] == "Trace_ELBO"


def test_the_first_epoch_by_hand(tiny):
    """One step over all rows, at draws that are made again here: the figures are means over rows, in nats a row."""
    vae = tiny()
    twin = copy.deepcopy(vae)
    twin.initialize(X)
    history = run(vae, epochs=1, batch_size=100, seed=4)
    with isolated(4), torch.no_grad():
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        x = X[torch.randperm(20, generator=generator)]
        q = twin.encode(x)
        z = q.sample()
        reconstruction = twin.decode(z).log_prob(x).mean()
        kl = (q.log_prob(z) - torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)).mean()
    row = history.loc[1]
    assert row["reconstruction"] == pytest.approx(reconstruction.item(), rel=1e-5)
    assert row["kl"] == pytest.approx(kl.item(), rel=1e-4)
    assert row["objective"] == pytest.approx((reconstruction - kl).item(), rel=1e-5)


@pytest.mark.parametrize("num_particles", [1, 4])
def test_an_importance_weighted_objective_is_above_the_elbo(linear, num_particles):
    exact = linear(shift=0.5)
    loss = infer.RenyiELBO(alpha=0, num_particles=num_particles, vectorize_particles=True, max_plate_nesting=1)
    history = fit(exact.vae, exact.x, elbo=loss, epochs=3, batch_size=1, **STILL)
    if num_particles == 1:
        assert history["objective"].tolist() == pytest.approx(history["elbo"].tolist(), rel=1e-9)
    else:
        assert (history["objective"] > history["elbo"] + 0.1).all()
        assert (history["objective"] < exact.log_prob.mean().item() + 0.5).all()


# Seeds


def test_a_seed_gives_the_same_fit_bit_for_bit(normed):
    results = []
    for seed in (3, 3, 4):
        torch.manual_seed(len(results))  # what the user drew before is of no account
        vae = normed()
        torch.rand(len(results) * 5)
        results.append((run(vae, epochs=3, validation=V, seed=seed).drop(columns="seconds"), state(vae)))
    (a, first), (b, second), (c, third) = results
    pd.testing.assert_frame_equal(a, b, check_exact=True)
    assert equal(first, second) and not equal(first, third)
    assert (a["elbo"] != c["elbo"]).all()


# beta and warm-up


@pytest.mark.parametrize("elbo", ["elbo", "graph_elbo", "enum_elbo"])
@pytest.mark.parametrize("beta", [0.0, 0.5, 2.0])
def test_beta_weighs_the_kl_of_the_objective(tiny, beta, elbo):
    history = run(tiny(), beta=beta, elbo=elbo, epochs=3)
    expected = history["reconstruction"] - beta * history["kl"]
    assert history["objective"].tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    assert history["beta"].tolist() == [beta] * 3
    assert (history["elbo"] - history["reconstruction"] + history["kl"]).abs().max() < 1e-9


def test_beta_zero_gives_the_prior_no_gradient_and_beta_two_does(tiny):
    for beta, still in ((0.0, True), (2.0, False)):
        vae = tiny(prior="normal(learned=True)")
        run(vae, beta=beta, optimizer="sgd", lr=1e-3)
        assert (not vae.prior.piece.loc.any()) == still


def test_a_weighted_step_by_hand(tiny):
    """The weights after one SGD step are those of the gradient of reconstruction - beta KL at the same draws."""
    vae = tiny()
    twin = copy.deepcopy(vae)
    twin.initialize(X)
    run(vae, epochs=1, batch_size=100, beta=3.0, optimizer="sgd", lr=1e-3, seed=4)
    with isolated(4):
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        x = X[torch.randperm(20, generator=generator)]
        q = twin.encode(x)
        z = q.rsample()
        kl = q.log_prob(z).sum() - torch.distributions.Normal(0.0, 1.0).log_prob(z).sum()
        loss = 3.0 * kl - twin.decode(z).log_prob(x).sum()
    gradients = torch.autograd.grad(loss, list(twin.parameters()))
    for p, start, g in zip(vae.parameters(), twin.parameters(), gradients, strict=True):
        assert torch.allclose(p, start - 1e-3 * g, rtol=1e-4, atol=1e-6)


def test_warmup_rises_step_by_step(tiny):
    """3 steps an epoch: the weight of the last step of epoch e is beta (e - 1 + 2/3) / warmup."""
    history = run(tiny(), beta=2.0, warmup=2.0, epochs=4)
    assert history["beta"].tolist() == pytest.approx([2 / 3, 5 / 3, 2, 2], rel=1e-12)
    one_step = run(tiny(), beta=2.0, warmup=4.0, epochs=6, batch_size=100)
    assert one_step["beta"].tolist() == [0, 0.5, 1, 1.5, 2, 2]
    expected = one_step["reconstruction"] - one_step["beta"] * one_step["kl"]
    assert one_step["objective"].tolist() == pytest.approx(expected.tolist(), rel=1e-6)


def test_the_weight_rises_anew_in_each_cycle(tiny):
    history = run(tiny(), beta=2.0, warmup=2.0, cycles=2, epochs=8, batch_size=100)
    assert history["beta"].tolist() == [0, 1, 2, 2, 0, 1, 2, 2]
    expected = history["reconstruction"] - history["beta"] * history["kl"]
    assert history["objective"].tolist() == pytest.approx(expected.tolist(), rel=1e-6)


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        (dict(warmup=0.0, cycles=2), "above 0 and at most 4, the epochs of each of the 2 cycles.*got 0.0"),
        (dict(warmup=4.1, cycles=2), "above 0 and at most 4, .*got 4.1"),
        (dict(warmup=3.0, cycles=3), "at most 2.66667, the epochs of each of the 3 cycles.*got 3.0"),
        (dict(warmup=1.0, cycles=0), "cycles: expected a number of at least 1, got 0"),
        (dict(warmup=1.0, cycles=1.5), "cycles: expected a whole number of at least 1, got 1.5"),
    ],
    ids=str,
)
def test_cycles_without_room_for_a_rise(tiny, setting, text):
    vae = tiny()
    before = state(vae)
    with pytest.raises(ValueError, match=text):
        run(vae, epochs=8, **setting)
    assert equal(state(vae), before)
    assert run(vae, epochs=8, warmup=4.0, cycles=2, batch_size=100)["beta"].max() == 0.75


def test_beta_one_without_warmup_is_the_plain_elbo(tiny, same):
    a, b = tiny(), tiny()
    run(a, beta=1.0)
    run(b)
    assert same(a, b)


WEIGHTED = [
    infer.RenyiELBO(num_particles=2),
]


@pytest.mark.parametrize("loss", WEIGHTED, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("setting", [dict(beta=2.0), dict(beta=0.0), dict(warmup=1.0)], ids=str)
def test_beta_and_warmup_are_refused_where_there_is_no_kl_term(tiny, loss, setting):
    vae = tiny()
    before = state(vae)
    with pytest.raises(ValueError, match=rf"{type(loss).__name__} has no such term"):
        run(vae, elbo=loss, **setting)
    assert equal(state(vae), before)


# Steps


def test_clip_norm_shortens_the_whole_gradient(tiny):
    """SGD with rate 1 moves the weights by the gradient: as it is, or as long as clip_norm, in the same direction."""
    steps = {}
    for clip_norm in (None, 1e9, 0.01):
        vae = tiny().double()
        vae.initialize(X)
        before = torch.cat([p.detach().flatten() for p in vae.parameters()])
        run(vae, epochs=1, batch_size=100, optimizer="sgd", lr=1.0, clip_norm=clip_norm)
        steps[clip_norm] = torch.cat([p.detach().flatten() for p in vae.parameters()]) - before
    assert steps[None].norm() > 1
    assert torch.allclose(steps[1e9], steps[None], rtol=1e-12)
    assert steps[0.01].norm().item() == pytest.approx(0.01, rel=1e-4)
    assert torch.allclose(steps[0.01] / 0.01, steps[None] / steps[None].norm(), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("adam", lambda p, lr: torch.optim.Adam(p, lr=lr)),
        ("adamw", lambda p, lr: torch.optim.AdamW(p, lr=lr)),
        ("adamax", lambda p, lr: torch.optim.Adamax(p, lr=lr)),
        ("rmsprop", lambda p, lr: torch.optim.RMSprop(p, lr=lr)),
        ("sgd", lambda p, lr: torch.optim.SGD(p, lr=lr)),
        ("adam(betas=(0.5, 0.9), weight_decay=0.1)", lambda p, lr: torch.optim.Adam(p, lr, (0.5, 0.9), 1e-8, 0.1)),
        ("sgd(momentum=0.9)", lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9)),
    ],
)
def test_optimizers_by_name_and_as_constructors(tiny, name, make):
    a, b, still = tiny().double(), tiny().double(), tiny().double()
    still.initialize(X)
    run(a, optimizer=name, lr=1e-3)
    run(b, optimizer=make, lr=1e-3)
    for p, q, start in zip(a.parameters(), b.parameters(), still.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-9, atol=1e-12)
        assert not torch.equal(p, start)


def test_fit_is_bare_svi_with_the_same_draws(tiny):
    """The same optimizer and batches by hand, through pyro.infer.SVI, come to the same weights."""
    vae, twin = tiny(), tiny()
    run(vae, epochs=3, batch_size=100, lr=0.01, seed=2)
    twin.initialize(X)
    svi = infer.SVI(twin.model, twin.guide, pyro.optim.Adam({"lr": 0.01}), infer.Trace_ELBO())
    with isolated(2):
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        for _ in range(3):
            svi.step(X[torch.randperm(20, generator=generator)])
    for p, q in zip(vae.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "formula"),
    [
        ("constant", lambda e: 1.0),
        ("linear", lambda e: 1 - e / 5),
        ("cosine", lambda e: 0.5 + 0.5 * math.cos(math.pi * e / 5)),
        ("exponential(rate=0.5)", lambda e: 0.5**e),
        (lambda epoch, epochs: 1 / (1 + epoch * epochs), lambda e: 1 / (1 + 5 * e)),
    ],
    ids=["constant", "linear", "cosine", "exponential", "own"],
)
def test_the_rate_follows_the_schedule(tiny, schedule, formula):
    history = run(tiny(), epochs=5, lr=0.02, schedule=schedule)
    assert history["lr"].tolist() == pytest.approx([0.02 * formula(e) for e in range(5)], rel=1e-12)


def test_the_rate_is_the_optimizers(tiny):
    """A schedule that falls to 0 after the first epoch leaves the weights where they are."""
    vae = tiny()
    weights = []
    run(vae, epochs=3, schedule=lambda e, n: float(e == 0), callbacks=[lambda vae, row: weights.append(state(vae))])
    assert equal(weights[0], weights[1]) and equal(weights[1], weights[2])


# When to stop, and the weights that stay


def validation_elbo(vae, seed):
    """The figure that fit reports, computed again from outside."""
    with isolated(seed), evaluating(vae):
        return elbos.terms(vae.model, vae.guide, V).log_weights.double().mean().item()


@pytest.fixture
def overfitted(tiny):
    """A fit to noise, fast enough that validation gets worse before the end."""

    def make(**arguments):
        vae = tiny(encoder="mlp(hidden=[32])", decoder="mlp(hidden=[32])")
        return vae, run(vae, epochs=60, lr=0.03, validation=V, seed=5, **arguments)

    return make


def test_the_best_weights_stay(overfitted):
    vae, history = overfitted()
    best = int(history["validation_elbo"].idxmax())
    assert best < 60 and history.attrs["best_epoch"] == best and history.attrs["stopped"] == "epochs"
    assert validation_elbo(vae, 5) == pytest.approx(history["validation_elbo"].max(), rel=1e-6)
    assert history["validation_elbo"].iloc[-1] < history["validation_elbo"].max() - 0.01


@pytest.mark.parametrize("patience", [1, 4])
def test_early_stopping(overfitted, patience):
    vae, history = overfitted(patience=patience)
    best = history.attrs["best_epoch"]
    assert history.attrs["stopped"] == "patience" and len(history) == best + patience < 60
    assert best == int(history["validation_elbo"].idxmax())
    assert validation_elbo(vae, 5) == pytest.approx(history["validation_elbo"].max(), rel=1e-6)


def test_the_figure_to_judge_by_has_the_weight_of_the_objective(tiny):
    """With beta = 4 the second of these epochs is the best; by the plain ELBO it is the first."""
    rows = [
        {"epoch": 1, "validation_elbo": -2.0, "validation_reconstruction": -1.0, "validation_kl": 1.0},
        {"epoch": 2, "validation_elbo": -3.0, "validation_reconstruction": -2.5, "validation_kl": 0.5},
        {"epoch": 3, "validation_elbo": -1.5, "validation_reconstruction": -0.5, "validation_kl": 1.0 + 1e-9},
    ]
    for beta, expected in ((1.0, [True, False, True]), (4.0, [True, True, False]), (0.0, [True, False, True])):
        best = Best(tiny(), beta, None)
        assert [best.see({**row, "beta": beta}) for row in rows] == expected
    history = run(tiny(), epochs=20, lr=0.03, validation=V, beta=4.0)
    figure = history["validation_reconstruction"] - 4 * history["validation_kl"]
    assert history.attrs["best_epoch"] == int(figure.idxmax())


def test_patience_waits_for_the_end_of_the_warmup(tiny):
    """Weights that stand still never get better after the first epoch."""
    arguments = dict(validation=V, patience=2, epochs=20, **STILL)
    assert len(fit(tiny(), X, **arguments)) == 3
    history = fit(tiny(), X, **arguments, warmup=5.0)
    assert len(history) == 7 and history.attrs["best_epoch"] == 1


def test_patience_does_not_count_the_rises_of_any_cycle(tiny):
    """Two cycles of 10 epochs, 6 of them a rise: epochs 7 to 10 and 17 to 20 count."""
    arguments = dict(validation=V, epochs=20, warmup=6.0, cycles=2, **STILL)
    for patience, length in ((3, 9), (4, 10), (5, 17), (8, 20), (9, 20)):
        history = fit(tiny(), X, **arguments, patience=patience)
        assert len(history) == length and history.attrs["best_epoch"] == 1
        assert history.attrs["stopped"] == ("patience" if patience < 9 else "epochs")


def test_patience_without_validation(tiny):
    with pytest.raises(ValueError, match="patience: expected validation rows to judge by, got none"):
        run(tiny(), patience=3)


def test_without_validation_the_last_weights_stay(tiny):
    vae = tiny()
    weights = []
    history = run(vae, epochs=3, callbacks=[lambda vae, row: weights.append(state(vae))])
    assert equal(state(vae), weights[-1]) and history.attrs["best_epoch"] == 3


def test_checkpoints(overfitted, tmp_path, same):
    weights = []
    vae, history = overfitted(checkpoint=tmp_path, callbacks=[lambda vae, row: weights.append(state(vae))])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.safetensors", "last.safetensors"]
    best, last = (pyrovae.load(tmp_path / f"{name}.safetensors") for name in ("best", "last"))
    assert same(best, vae) and equal(state(best), weights[history.attrs["best_epoch"] - 1])
    assert equal(state(last), weights[-1]) and not same(best, last)


def test_checkpoints_are_written_each_epoch(tiny, tmp_path):
    seen = []

    def look(vae, row):
        seen.append(equal(state(pyrovae.load(tmp_path / "run" / "last.safetensors")), state(vae)))

    run(tiny(), epochs=3, checkpoint=tmp_path / "run", callbacks=[look])
    assert seen == [True] * 3


def test_callbacks(tiny):
    vae, rows = tiny(), []
    history = run(vae, epochs=5, validation=V, callbacks=[lambda v, row: rows.append((v is vae, dict(row)))])
    assert all(is_vae for is_vae, _ in rows)
    frame = pd.DataFrame([row for _, row in rows]).set_index("epoch")
    pd.testing.assert_frame_equal(frame, history)


def test_a_callbacks_true_ends_training_after_all_were_called(tiny):
    calls = []
    callbacks = [lambda vae, row: row["epoch"] == 2, lambda vae, row: calls.append(row["epoch"])]
    history = run(tiny(), epochs=9, callbacks=callbacks)
    assert history.attrs["stopped"] == "callback" and history.index.tolist() == [1, 2] == calls


def test_seconds_end_training_in_the_middle_of_an_epoch(tiny):
    batches = []

    def watched(batch, generator):
        batches.append(len(batch))
        return batch

    history = run(tiny(), epochs=9, batch_size=5, seconds=1e-9, transform=watched)
    assert history.attrs["stopped"] == "seconds" and history.index.tolist() == [1]
    assert batches == [len(X), 5]  # a look at all, and one step
    assert np.isfinite(history["elbo"]).all()
    begin = time.perf_counter()
    history = run(tiny(), epochs=10**6, seconds=0.5)
    assert history.attrs["stopped"] == "seconds" and 0.5 <= time.perf_counter() - begin < 10
    with pytest.raises(ValueError, match="seconds: expected a finite number above 0"):
        run(tiny(), seconds=0)


# When it breaks off


@pytest.mark.parametrize("validation", [None, V], ids=["no validation", "validation"])
def test_a_loss_that_is_not_finite(tiny, same, validation):
    vae = tiny()
    start = copy.deepcopy(vae)
    start.initialize(X)
    message = (
        r"expected a finite loss, got (inf|nan) at epoch 1, step [23].*weights of epoch 0 back.*lower lr \(now 1e\+30"
    )
    with pytest.raises(FloatingPointError, match=message), pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyro.infer.trace_elbo.warn_if_nan", lambda *a: None)
        run(vae, lr=1e30, optimizer="sgd", validation=validation)
    assert same(vae, start)


def test_the_last_good_epoch_comes_back(tiny):
    """The rate explodes in the third epoch: the weights of the second are back."""
    vae, weights = tiny(), []
    with pytest.raises(FloatingPointError, match="at epoch 3, step [23].*weights of epoch 2 back"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pyro.infer.trace_elbo.warn_if_nan", lambda *a: None)
            run(
                vae,
                epochs=9,
                lr=1e-3,
                optimizer="sgd",
                schedule=lambda epoch, epochs: 1.0 if epoch < 2 else 1e33,
                callbacks=[lambda vae, row: weights.append(state(vae))],
            )
    assert len(weights) == 2 and equal(state(vae), weights[1])


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_leaves_the_last_good_weights(normed, error):
    """From a callback, and in the middle of an epoch; every module has its own mode back."""
    for where in ("callback", "step"):
        vae, weights = normed(), []
        vae.posterior.network.drop.eval()
        modes = [m.training for m in vae.modules()]
        batches = []

        def callback(vae, row, where=where, weights=weights):
            weights.append(state(vae))
            if where == "callback" and row["epoch"] == 2:
                raise error

        def transform(batch, generator, where=where, batches=batches):
            batches.append(len(batch))
            if where == "step" and len(batches) == 1 + 3 + 3 + 2:  # the look, two epochs, and a step of the third
                raise error
            return batch

        with pytest.raises(error):
            run(vae, epochs=9, transform=transform, callbacks=[callback])
        assert len(weights) == 2 and equal(state(vae), weights[-1])
        assert [m.training for m in vae.modules()] == modes
        assert not len(pyro.get_param_store())


@pytest.mark.parametrize("training", [True, False])
def test_every_module_has_its_own_mode_back(normed, training):
    vae = normed()
    vae.train(training)
    vae.posterior.network.norm.train(not training)
    vae.likelihood.network.drop.train(not training)
    modes = [m.training for m in vae.modules()]
    during = []
    run(vae, validation=V, callbacks=[lambda vae, row: during.append({m.training for m in vae.modules()})])
    assert [m.training for m in vae.modules()] == modes
    assert during == [{True}, {True}], "training is in training mode, after validation too"


# Transforms


def test_a_dynamic_transform(tiny):
    """It gets rows and a generator at each step; what it makes is what the model sees."""
    grey = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
    made = []

    def binarize(batch, generator):
        assert isinstance(generator, torch.Generator)
        made.append(torch.bernoulli(batch, generator=generator))
        return made[-1]

    def fitted():
        vae = tiny(likelihood="bernoulli")
        return run(vae, grey, transform=binarize, epochs=3, batch_size=20).drop(columns="seconds"), state(vae)

    first, weights = fitted()
    assert len(made) == 4 and all(m.shape == (20, 3) for m in made)
    assert not torch.equal(made[1].sum(0), made[2].sum(0))
    second, again = fitted()
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    assert equal(weights, again)
    with pytest.raises(ValueError, match="expected 0 or 1"):
        run(tiny(likelihood="bernoulli"), grey)


def test_what_a_transform_makes_is_checked_at_each_step(tiny):
    calls = []

    def bad(batch, generator):
        calls.append(1)
        return batch if len(calls) < 4 else batch + 2

    x = (X > 0).float()
    with pytest.raises(ValueError, match=r"x: expected 0 or 1 \(Bernoulli\), got [23] at row 0"):
        run(tiny(likelihood="bernoulli"), x, transform=bad, epochs=5)
    assert len(calls) == 4
    with pytest.raises(ValueError, match="x: expected shape"):
        run(tiny(), transform=lambda batch, generator: batch[:, :2])
    with pytest.raises(ValueError, match="x: expected shape"):
        run(tiny(), X[:, :2], transform=lambda batch, generator: batch)


# Conditions


def test_conditions_stay_with_their_rows(tiny):
    """The row's number is in x and in the condition; they arrive together, in training and in validation."""
    together = []

    class Look(nn.Module):
        def forward(self, x, condition):
            together.append(torch.equal(x[:, 0], condition[:, 0]))
            return torch.cat([x, condition], -1)

    ids = torch.arange(20.0)[:, None]
    vae = tiny(encoder=Look(), condition_dim=1)
    together.clear()
    run(vae, ids.expand(20, 3), condition=ids, validation=ids.expand(20, 3), validation_condition=ids)
    assert len(together) == 1 + 2 * (3 + 1) and all(together)


def test_conditional_training_uses_the_condition(tiny):
    """x is its condition plus noise, more than a latent dimension can carry: the condition is worth many nats."""
    c = 5 * torch.randn(64, 3)
    x = c + 0.1 * torch.randn(64, 3)
    reached = []
    for condition in (c, torch.zeros_like(c)):
        vae = tiny(latent_dim=1, likelihood="gaussian", condition_dim=3)
        reached.append(run(vae, x, condition=condition, epochs=80, lr=0.02, batch_size=64)["elbo"].iloc[-1])
    assert reached[0] > reached[1] + 1


# Settings


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        (dict(epochs=0), "epochs: expected a number of at least 1, got 0"),
        (dict(batch_size=0), "batch_size: expected a number of at least 1"),
        (dict(num_particles=0), "num_particles: expected a number of at least 1"),
        (dict(beta=-1.0), "beta: expected a number of at least 0"),
        (dict(beta=math.nan), "beta: expected a number of at least 0, got nan"),
        (dict(warmup=-1.0), "warmup: expected a number of at least 0"),
        (dict(warmup=math.inf), "warmup: expected a number of at least 0, got inf"),
        (dict(seed=-1), "seed: expected a number of at least 0"),
        (dict(patience=0, validation=V), "patience: expected a number of at least 1"),
        (dict(lr=0.0), "lr: expected a finite number above 0"),
        (dict(lr=-1.0), "lr: expected a finite number above 0"),
        (dict(lr=math.nan), "lr: expected a finite number above 0, got nan"),
        (dict(lr=math.inf), "lr: expected a finite number above 0, got inf"),
        (dict(clip_norm=0.0), "clip_norm: expected a finite number above 0"),
        (dict(elbo="iwa"), "unknown elbo 'iwa': expected one of"),
        (dict(optimizer="adan"), "unknown optimizer 'adan'.*Did you mean 'adam'"),
        (dict(optimizer="adam(beta=3)"), "optimizer 'adam' has no argument 'beta': expected"),
        (dict(schedule="step"), "unknown schedule 'step'"),
        (dict(device="gpu9"), "device: expected auto, cpu, or a GPU that torch finds, got 'gpu9'"),
        (dict(device="cuda:99"), "device: expected auto, cpu, or a GPU that torch finds, got 'cuda:99'"),
        (dict(elbo=infer.Trace_ELBO(4), num_particles=2), "num_particles: the ELBO object has 4, got 2"),
    ],
    ids=lambda value: value if isinstance(value, str) else ", ".join(value),
)
def test_settings_that_do_not_fit(tiny, setting, text):
    vae = tiny()
    before = state(vae)
    with pytest.raises(ValueError, match=text):
        run(vae, **setting)
    moved = [key for key, value in vae.state_dict().items() if not torch.equal(value, before[key])]
    assert set(moved) <= {"likelihood.head.bias"}, "it took a step"


def test_the_progress_bar(tiny, capsys):
    run(tiny(), epochs=2, progress=True)
    assert "6/6" in capsys.readouterr().err
    run(tiny(), epochs=2)
    assert capsys.readouterr().err == ""


def test_fit_learns(linear):
    """From a random start to within half a nat a row of the best that a linear VAE can reach."""
    exact = linear(n=200, d=6, k=2)
    best = type(exact.truth).maximum_likelihood(exact.rows, 2).log_prob(exact.rows).mean().item()
    torch.manual_seed(0)
    vae = VAE((6,), 2, likelihood="gaussian", encoder=nn.Identity(), decoder=nn.Identity())
    history = fit(vae, exact.rows, epochs=60, batch_size=50, lr=0.03, elbo="mean_field_elbo", progress=False)
    assert np.isfinite(history["elbo"]).all()
    assert best - 0.5 < history["elbo"].tail(10).mean() < best + 0.1
