"""Values of the estimators: against formulas written out again, closed forms, and all that must not change them."""

import math
import random
from functools import partial
from itertools import combinations

import pyro
import pyro.distributions as dist
import pytest
import torch
from mpmath import mp
from pyro import infer, poutine
from torch.distributions import MultivariateNormal, Normal

from pyrovae import elbos, registry

import plant  # isort: skip
import swaps  # isort: skip

mp.dps = 40
DTYPES = [torch.float64, torch.float32]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6}

LOWER = [
    "iwae", "dreg", "gdreg", "stl", "renyi(alpha=0)", "renyi(alpha=0.5)", "renyi(alpha=2)", "miwae", "ciwae", "piwae",
    "tvo", "tvo(partitions=5)", "score_function", "vimco", "rws", "rws(doubly=True)", "rws(wake=0.5)", "tail_adaptive",
    "tail_adaptive(beta=-0.5)",
]  # fmt: skip
EITHER = ["renyi(alpha=-1)", "jackknife", "jackknife(order=2)"]
UPPER = ["cubo", "cubo(order=1.5)"]
SPECS = LOWER + EITHER + UPPER
GROUPED = ["miwae", "piwae"]
SEVERAL = [*GROUPED, "tvo", "tvo(partitions=5)", "score_function", "vimco", "tail_adaptive", "tail_adaptive(beta=-0.5)"]
ALONE = [spec for spec in SPECS if spec not in SEVERAL and not spec.startswith("jackknife")]
CASES = [
    *((spec, 1) for spec in ALONE),
    *((spec, 7) for spec in SPECS if spec not in GROUPED),
    *((spec, 8) for spec in SPECS),
]


def make(spec, particles, nesting=1, chunk=None):
    """An estimator by name that does not run the model first to count its plates."""
    context = {"num_particles": particles, "max_plate_nesting": nesting, "chunk": chunk}
    return registry.make(spec, elbos.FAMILY, "elbo", **context)


def name(spec):
    return registry.parse(spec, "elbo")[0]


def slack(spec):
    """Jackknife subtracts: its bounds have coefficients of size K^order."""
    return 100 if name(spec) == "jackknife" else 1


def sign(spec):
    return 1 if spec in UPPER else -1


def number(value):
    """Of a loss that is a number or a tensor with a gradient."""
    return torch.as_tensor(value, dtype=torch.float64).item()


def test_all_names_are_here():
    assert {name(spec) for spec in SPECS} == {
        key for key, member in elbos.FAMILY.items() if isinstance(member, type) and issubclass(member, elbos.Bound)
    }
    assert [make(spec, 8).side for spec in SPECS] == [-1] * len(LOWER) + [0] * len(EITHER) + [1] * len(UPPER)


# The exact posterior: all weights of a row are p(x)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("spec", "particles"), CASES)
def test_at_the_exact_posterior_each_row_is_log_p(linear, spec, particles, dtype):
    exact, loss, tolerance = linear(dtype=dtype), make(spec, particles), slack(spec) * TOLERANCE[dtype]
    pair = exact.vae.model, exact.vae.guide
    for _ in range(2):  # whatever was drawn
        rows = loss.rows(*pair, exact.x)
        assert rows.shape == (20,) and rows.dtype == dtype and not rows.requires_grad
        assert ((rows.double() - exact.log_prob) / exact.log_prob).abs().max() <= tolerance
    total = sign(spec) * exact.log_prob.sum().item()
    assert loss.loss(*pair, exact.x) == pytest.approx(total, rel=tolerance)
    assert loss.differentiable_loss(*pair, exact.x).item() == pytest.approx(total, rel=tolerance)
    assert loss.loss_and_grads(*pair, exact.x) == pytest.approx(total, rel=tolerance)


# Numbers by hand. Columns are rows of data: an ordinary one, one that overflows, one that underflows and has a tie.

LOG_W = torch.tensor(
    [[0.3, 200.0, -200.0], [-1.2, -200.0, -199.5], [2.5, 0.0, -203.0], [0.7, 1.0, -200.0]], dtype=torch.float64
)


def log_mean_exp(row):
    return mp.log(mp.fsum(mp.exp(w) for w in row) / len(row))


def mean(row):
    return mp.fsum(row) / len(row)


def renyi(row, alpha):
    return mp.log(mean([mp.exp(w) ** (1 - mp.mpf(alpha)) for w in row])) / (1 - mp.mpf(alpha))


def miwae(row, groups):
    size = len(row) // groups
    return mean([log_mean_exp(row[i : i + size]) for i in range(0, len(row), size)])


def ciwae(row, beta):
    return beta * mean(row) + (1 - beta) * log_mean_exp(row)


def cubo(row, order):
    return mp.log(mean([mp.exp(w) ** mp.mpf(order) for w in row])) / mp.mpf(order)


def tvo(row, grid):
    """Sum of (b' - b) E_b[log w], each mean at the left end, with weights w^b."""
    total = mp.mpf(0)
    for left, right in zip(grid[:-1], grid[1:], strict=True):
        weights = [mp.exp(w) ** left for w in row]
        total += (right - left) * mp.fsum(v * w for v, w in zip(weights, row, strict=True)) / mp.fsum(weights)
    return total


def jackknife(row, order):
    """Over all subsets of K, K-1, ..., K-m draws, with the coefficients that sum to 1 and kill 1/n, ..., 1/n^m."""
    sizes = [len(row) - j for j in range(order + 1)]
    powers = mp.matrix([[mp.mpf(1) / size**i for size in sizes] for i in range(order + 1)])
    coefficients = mp.lu_solve(powers, mp.matrix([1] + [0] * order))
    return mp.fsum(
        c * mean([log_mean_exp(subset) for subset in combinations(row, size)])
        for c, size in zip(coefficients, sizes, strict=True)
    )


BY_HAND = {
    **dict.fromkeys(
        ["iwae", "dreg", "gdreg", "stl", "piwae", "vimco", "rws", "rws(doubly=True)", "tail_adaptive"], log_mean_exp
    ),
    "score_function": mean,
    "renyi(alpha=0)": partial(renyi, alpha=0),
    "renyi(alpha=0.5)": partial(renyi, alpha=0.5),
    "renyi(alpha=1)": mean,
    "renyi(alpha=2)": partial(renyi, alpha=2),
    "renyi(alpha=-1)": partial(renyi, alpha=-1),
    "renyi(alpha=-1e999)": max,
    "miwae": partial(miwae, groups=2),
    "miwae(groups=4)": partial(miwae, groups=4),
    "ciwae": partial(ciwae, beta=mp.mpf(0.5)),
    "ciwae(beta=0.2)": partial(ciwae, beta=mp.mpf(0.2)),
    "tvo": partial(tvo, grid=[0, mp.mpf(0.1), 1]),
    "tvo(partitions=1)": partial(tvo, grid=[0, 1]),
    "tvo(partitions=3, first_beta=0.01)": partial(tvo, grid=[0, mp.mpf(0.01), mp.mpf(0.1), 1]),
    **{f"jackknife(order={order})": partial(jackknife, order=order) for order in range(4)},
    "cubo": partial(cubo, order=2),
    "cubo(order=3.5)": partial(cubo, order=3.5),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("spec", BY_HAND)
def test_a_bound_by_hand(spec, dtype):
    log_weights = LOG_W.to(dtype)
    got = make(spec, 4).bound(log_weights)
    expected = [float(BY_HAND[spec]([mp.mpf(w) for w in row])) for row in log_weights.T.tolist()]
    tolerance = slack(spec) * TOLERANCE[dtype]
    assert got.tolist() == pytest.approx(expected, rel=tolerance, abs=tolerance)


def some_log_weights(particles=6, rows=50):
    return 3 * torch.randn(particles, rows, dtype=torch.float64)


@pytest.mark.parametrize(
    ("spec", "same"),
    [
        ("renyi(alpha=0)", "iwae"),
        ("renyi(alpha=1)", "elbo"),
        ("miwae(groups=1)", "iwae"),
        ("miwae(groups=6)", "elbo"),
        ("ciwae(beta=0)", "iwae"),
        ("ciwae(beta=1)", "elbo"),
        ("tvo(partitions=1)", "elbo"),
        ("jackknife(order=0)", "iwae"),
        ("cubo(order=1.0000001)", "iwae"),
        ("renyi(alpha=0.9999999)", "elbo"),
    ],
)
def test_a_bound_that_is_another(spec, same):
    log_weights = some_log_weights()
    expected = log_weights.mean(0) if same == "elbo" else log_weights.exp().mean(0).log()
    tolerance = 1e-5 if "00000" in spec or "99999" in spec else 1e-12
    assert torch.allclose(make(spec, 6).bound(log_weights), expected, rtol=0, atol=tolerance)


def test_the_thermodynamic_sum_rises_to_the_importance_weighted_bound():
    """Pointwise, at each doubling of the grid: the integrand rises in beta, so each left sum is below the integral."""
    log_weights = some_log_weights()
    sums = [elbos.TVO(6, partitions=1 + 2**j, first_beta=0.01).bound(log_weights) for j in range(6)]
    limit = log_weights.exp().mean(0).log()
    for less, more in zip(sums, [*sums[1:], limit], strict=True):
        assert (more > less).all()
    assert torch.allclose(elbos.TVO(6, partitions=4000, first_beta=1e-6).bound(log_weights), limit, rtol=0, atol=0.05)


def test_bounds_between_the_elbo_and_the_largest_weight():
    """Jensen, of the same draws: Renyi falls in alpha, MIWAE in groups, CUBO rises in its order."""
    log_weights = some_log_weights(8)
    chains = [
        [f"renyi(alpha={alpha})" for alpha in ("1e6", 3, 1, 0.5, 0, -0.5, -3, "-1e999")],
        [f"miwae(groups={groups})" for groups in (8, 4, 2, 1)],
        ["ciwae(beta=1)", "ciwae(beta=0.4)", "iwae", "cubo(order=1.1)", "cubo", "cubo(order=9)"],
    ]
    for chain in chains:
        values = [make(spec, 8).bound(log_weights) for spec in chain]
        assert all((more > less).all() for less, more in zip(values, values[1:], strict=False))


# How much each draw counts, by hand

TIED = torch.tensor(
    [[1.0, 5.0, 2.0], [1.0, -5.0, 2.0], [0.0, 0.0, 2.0], [3.0, 1.0, 2.0], [1.0, 0.0, 2.0]], dtype=torch.float64
)


@pytest.mark.parametrize("beta", [-1.0, -0.4, 0.0])
def test_tail_adaptive_weights_are_powers_of_ranks(beta):
    """gamma_k ~ (share of weights at least as large)^beta, also where weights are equal."""
    _, path, score = elbos.TailAdaptive(5, beta=beta).weights(TIED)
    for row, got in zip(TIED.T.tolist(), path.T.tolist(), strict=True):
        power = [(sum(w >= v for w in row) / 5) ** beta for v in row]
        assert got == pytest.approx([p / sum(power) for p in power], rel=1e-12)
    assert score is None


def leave_one_out(row, k, bound):
    """The bound with weight k replaced by the geometric mean of the others."""
    others = [w for j, w in enumerate(row) if j != k]
    return bound([*others, mean(others)])


@pytest.mark.parametrize(("spec", "bound"), [("vimco", log_mean_exp), ("score_function", mean)])
@pytest.mark.parametrize("log_weights", [LOG_W, TIED, TIED[:2], LOG_W[:3]], ids=["4", "tied", "2", "3"])
def test_baselines_leave_one_draw_out(spec, bound, log_weights):
    """Score weights are bound - baseline + what the slope of log w_k in phi, -score, adds where its mean is not zero.

    That is -w_k / sum w for VIMCO. For the ELBO the mean of K equal terms is 0, and is left out.
    """
    model, path, score = make(spec, len(log_weights)).weights(log_weights)
    slopes = model.T.tolist()
    for row, slope, got in zip(log_weights.T.tolist(), slopes, score.T.tolist(), strict=True):
        row = [mp.mpf(w) for w in row]
        learning = [float(bound(row) - leave_one_out(row, k, bound)) for k in range(len(row))]
        own = [float(mp.exp(w - log_mean_exp(row)) / len(row)) for w in row]
        expected = [a - b for a, b in zip(learning, own, strict=True)] if spec == "vimco" else learning
        assert got == pytest.approx(expected, rel=1e-10, abs=1e-10)
        assert slope == pytest.approx(own if spec == "vimco" else [1 / len(row)] * len(row), rel=1e-10, abs=1e-300)
    assert path is None


def test_a_baseline_where_a_draw_is_impossible():
    """Of a discrete z that cannot have made x: the others' baseline is their own sum, with a geometric mean of 0."""
    row = [-math.inf, 0.0, 1.0]
    _, _, score = elbos.VIMCO(3).weights(torch.tensor(row, dtype=torch.float64)[:, None])
    w = [0.0, 1.0, math.e]
    total = sum(w)
    without = [total + math.exp(0.5), w[2], w[1]]
    expected = [math.log(total / other) - v / total for v, other in zip(w, without, strict=True)]
    assert score[:, 0].tolist() == pytest.approx(expected, rel=1e-12)


# Another guide than the posterior: bounds are below log p(x)


def repeated(exact, repeats):
    """Data and log p(x) with each row ``repeats`` times: draws of its own for each, so repeats of an experiment."""
    return exact.x.repeat(repeats, 1), exact.log_prob


def score(draws, expected):
    """How many standard errors the means of ``draws`` are away from what was expected."""
    return ((draws.mean(0) - expected) / (draws.std(0) / math.sqrt(len(draws)))).abs().max().item()


def test_the_bound_rises_with_draws_to_log_p(linear):
    exact = linear(n=4, shift=0.3, stretch=1.5)
    x, log_p = repeated(exact, 1000)
    values = [make("iwae", k).rows(exact.vae.model, exact.vae.guide, x).reshape(1000, 4).sum(1) for k in (1, 2, 8, 64)]
    means, errors = [v.mean() for v in values], [v.std() / math.sqrt(1000) for v in values]
    for i in range(3):
        assert means[i + 1] - means[i] > 5 * (errors[i] + errors[i + 1])
    assert log_p.sum() - 0.5 < means[-1] < log_p.sum() + 3 * errors[-1]


@pytest.mark.parametrize(
    ("spec", "particles"),
    [
        *((spec, 1) for spec in ALONE if not spec.startswith(("renyi", "cubo"))),
        *[("renyi(alpha=1)", 3), ("score_function", 3), ("miwae(groups=3)", 3), ("tvo(partitions=1)", 3)],
        *[("ciwae(beta=1)", 3), ("renyi(alpha=2)", 1), ("cubo", 1)],
    ],
)
def test_the_mean_of_each_form_of_the_elbo(linear, spec, particles):
    exact = linear(n=4, shift=0.3, stretch=1.5)
    x, _ = repeated(exact, 2000)
    rows = make(spec, particles).rows(exact.vae.model, exact.vae.guide, x).reshape(2000, 4)
    assert score(rows, exact.truth.elbo(exact.rows, exact.loc, exact.covariance)) < 4


@pytest.mark.parametrize("order", [0, 1, 2])
def test_the_jackknife_takes_the_bias_off(linear, order):
    """Its bias falls with each order, and at order 2 is no more than noise."""
    exact = linear(n=1, shift=0.2, stretch=1.3)
    x, log_p = repeated(exact, 40_000)
    rows = make(f"jackknife(order={order})", 8).rows(exact.vae.model, exact.vae.guide, x)
    bias, error = (rows.mean() - log_p).abs().item(), rows.std().item() / 200
    most = [0.1, 0.03, 0.01][order]
    assert most / 4 - 4 * error < bias < most + 4 * error if order < 2 else bias < most + 4 * error


def settings(count):
    """Random settings: estimator, draws, rows, batch and factors."""
    rng = random.Random(0)
    for _ in range(count):
        spec = rng.choice(LOWER)
        rows = rng.choice([1, 1, 2, 3, 5])
        yield {
            "spec": spec,
            "particles": rng.choice([2, 4, 8, 16] if spec in SEVERAL else [1, 2, 3, 8, 16]),
            "rows": rows,
            "columns": rng.choice([2, 3, 6]),
            "latent": rng.choice([1, 2]),
            "dtype": rng.choice(DTYPES),
            "shift": rng.choice([0.0, 0.05, -0.3, 1.0]),
            "stretch": rng.choice([0.5, 0.9, 1.0, 1.3, 2.0]),
            "scale": rng.choice([None, 0.1, 3.0, 1000.0]),
            "all_rows": rng.choice([1, 1, 2, 40]),
            "chunk": rng.choice([None, None, 1, 3]) if spec != "rws(wake=0.5)" else None,
        }


def test_no_lower_bound_is_above_log_p(linear):
    """Within 3 standard errors of 200 repeats, in 200 settings; a batch or a factor scales the bound as a whole."""
    repeats = 200
    for case in settings(200):
        exact = linear(
            case["rows"], case["columns"], case["latent"],
            shift=case["shift"], stretch=case["stretch"], dtype=case["dtype"],
        )  # fmt: skip
        x, log_p = repeated(exact, repeats)
        loss = make(case["spec"], case["particles"], chunk=case["chunk"])
        pair, factor = (exact.vae.model, exact.vae.guide), float(case["all_rows"])
        if case["scale"] is not None:
            pair, factor = [poutine.scale(program, case["scale"]) for program in pair], factor * case["scale"]
        size = case["all_rows"] * len(x)
        torch.manual_seed(0)
        draws = loss.rows(*pair, x, size=size).double().reshape(repeats, -1).sum(1)
        torch.manual_seed(0)
        mean = -loss.loss(*pair, x, size=size) / repeats
        tolerance = TOLERANCE[case["dtype"]]
        assert mean == pytest.approx(factor * draws.mean().item(), rel=10 * tolerance), case
        most = log_p.sum().item()
        assert mean <= factor * (most + 3 * draws.std().item() / math.sqrt(repeats) + tolerance * abs(most)), case


# The same draws, however the rows come


def by_hand(exact, z, index):
    """log p(x, z) - log q(z | x) of rows ``index`` by the densities themselves."""
    truth, sd = exact.truth, exact.covariance.diagonal().sqrt()
    observed = Normal(z @ truth.weight.T + truth.bias, truth.scale).log_prob(exact.rows[index]).sum(-1)
    return observed + Normal(0.0, 1.0).log_prob(z).sum(-1) - Normal(exact.loc[index], sd).log_prob(z).sum(-1)


WAYS = ["whole", "one row", "last rows", "subsampled", "scaled", "scaled by row", "masked", "all masked"]


def arranged(exact, way):
    """Model and guide, rows, keywords, and what each row's bound is multiplied by in the loss and in ``rows``."""
    pair, index, keywords = (exact.vae.model, exact.vae.guide), torch.arange(9), {}
    factor = kept = torch.ones(9, dtype=torch.float64)
    if way in ("one row", "last rows"):
        index = index[4:5] if way == "one row" else index[7:]
        factor = kept = torch.ones(len(index), dtype=torch.float64)
    if way == "subsampled":
        keywords, factor = {"size": 90}, 10 * factor
    if way.startswith("scaled"):
        factor = (0.3 if way == "scaled" else torch.linspace(0.5, 4, 9, dtype=torch.float64)) * factor
        pair = [poutine.scale(program, 0.3 if way == "scaled" else factor) for program in pair]
    if "masked" in way:
        mask = torch.arange(9) % 3 > 0 if way == "masked" else torch.zeros(9, dtype=torch.bool)
        factor = kept = mask.double()
        pair = [poutine.mask(program, mask) for program in pair]
    return *pair, index, keywords, factor, kept


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("spec", SPECS)
def test_a_bound_is_formed_row_by_row_whatever_comes_with_it(linear, spec, way):
    exact, loss, seen = linear(n=9, shift=0.3, stretch=1.4), make(spec, 4), []
    model, guide, index, keywords, factor, kept = arranged(exact, way)

    def listening(*args, **kwargs):
        seen.append(guide(*args, **kwargs).detach())

    def expected():
        return loss.bound(by_hand(exact, seen[0], index))

    close = partial(pytest.approx, rel=1e-11, abs=1e-11)
    got = loss.rows(model, listening, exact.x[index], **keywords)
    assert got.tolist() == close((kept * expected()).tolist())
    for method in (loss.loss, loss.loss_and_grads, loss.differentiable_loss):
        seen.clear()
        value = number(method(model, listening, exact.x[index], **keywords))
        assert value == close(sign(spec) * (factor * expected()).sum().item())


@pytest.mark.parametrize("chunk", [1, 3, 4, 5, 9])
@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec != "rws(wake=0.5)"])
def test_chunks_make_one_bound(linear, spec, chunk):
    """Of all K draws, which are K different ones, and drawn again alike for the gradient."""
    exact, loss, seen = linear(n=5, shift=0.3, stretch=1.4), make(spec, 4, chunk=chunk), []
    size = min(chunk, 4)
    sizes = [min(size, 4 - start) for start in range(0, 4, size)]

    def guide(*args, **kwargs):
        seen.append(exact.vae.guide(*args, **kwargs).detach())

    for method in (loss.rows, loss.loss, loss.loss_and_grads):
        seen.clear()
        got = method(exact.vae.model, guide, exact.x, size=15)
        assert [len(z) for z in seen] == sizes * (2 if method == loss.loss_and_grads and len(sizes) > 1 else 1)
        z = torch.cat(seen[: len(sizes)])
        assert len(z.unique()) == z.numel()
        assert all(torch.equal(a, b) for a, b in zip(seen, seen[len(sizes) :], strict=False))
        expected = loss.bound(by_hand(exact, z, torch.arange(5)))
        expected = expected if method == loss.rows else sign(spec) * 3 * expected.sum()
        assert torch.allclose(torch.as_tensor(got, dtype=torch.float64), expected, rtol=1e-11)


def test_chunks_of_rows_that_are_subsampled_at_random_are_of_the_same_rows():
    x, seen = torch.linspace(0, 1, 100), []

    def plate():
        return pyro.plate("rows", 100, subsample_size=3, dim=-1)

    def model(x):
        with plate() as index:
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 0.5), obs=x[index])

    def guide(x):
        with plate() as index:
            seen.append(index.tolist())
            pyro.sample("z", dist.Normal(0.8 * x[index], 0.4))

    for method in ("loss", "loss_and_grads"):
        seen.clear()
        getattr(make("iwae", 4, chunk=2), method)(model, guide, x)
        assert len(seen) > 1 and all(rows == seen[0] for rows in seen)


@pytest.mark.parametrize("spec", ["iwae", "jackknife"])
def test_chunks_change_no_mean(linear, spec):
    exact = linear(n=1, shift=0.3, stretch=1.4)
    x, _ = repeated(exact, 3000)
    rows = [make(spec, 6, chunk=c).rows(exact.vae.model, exact.vae.guide, x) for c in (1, 2, 6, None)]
    for a, b in combinations(rows, 2):
        assert score(a - b, 0.0) < 4


def test_rows_of_a_bound_say_nothing_of_scale_or_gradient(tiny):
    vae = tiny()
    for spec in SPECS:
        assert make(spec, 4).rows(vae.model, vae.guide, torch.randn(5, 3), size=500).shape == (5,)
        make(spec, 4).loss(vae.model, vae.guide, torch.randn(5, 3))
    assert all(p.grad is None for p in vae.parameters())


# Missing cells


def missing_cells():
    """z ~ N(0, 1), x_j ~ N(w_j z, s_j), and an exact posterior given the cells that are there."""
    torch.manual_seed(1)
    w, s = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), torch.tensor([0.5, 1.0, 0.7], dtype=torch.float64)
    x = torch.randn(6, 3, dtype=torch.float64)
    there = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 1], [0, 0, 1], [1, 1, 0], [0, 0, 0]], dtype=torch.bool)

    def model(x, there):
        with pyro.plate("rows", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(1, dtype=torch.float64), 1.0))
            with pyro.plate("cells", 3, dim=-1), poutine.mask(mask=there):
                pyro.sample("x", dist.Normal(w * z, s), obs=x)

    def guide(x, there):
        precision = 1 + (there * w**2 / s**2).sum(1, keepdim=True)
        with pyro.plate("rows", len(x), dim=-2):
            loc = (there * w * x / s**2).sum(1, keepdim=True) / precision
            pyro.sample("z", dist.Normal(loc, precision**-0.5))

    def log_p(row, cells):
        if not cells.any():
            return torch.tensor(0.0, dtype=torch.float64)
        covariance = torch.outer(w[cells], w[cells]) + torch.diag(s[cells] ** 2)
        return MultivariateNormal(torch.zeros(len(row[cells]), dtype=torch.float64), covariance).log_prob(row[cells])

    return model, guide, x, there, torch.stack([log_p(*row) for row in zip(x, there, strict=True)])


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec != "rws(wake=0.5)"])
def test_missing_cells_are_left_out(spec):
    """Cells in a plate inside the rows, masked: the bound is log p of the others, and 0 for a row with none."""
    model, guide, x, there, log_p = missing_cells()
    loss, tolerance = make(spec, 4, nesting=2), slack(spec) * 1e-12
    rows = loss.rows(model, guide, x, there)
    assert rows.shape == (6, 1)
    assert torch.allclose(rows[:, 0], log_p, rtol=tolerance, atol=tolerance)
    assert loss.loss_and_grads(model, guide, x, there) == pytest.approx(sign(spec) * log_p.sum().item(), rel=tolerance)


@pytest.mark.parametrize("spec", SPECS)
def test_a_table_with_missing_cells(spec):
    tabular = next(key for key in swaps.LIKELIHOODS if swaps.name(key) == "tabular")
    vae, (x, _) = swaps.build(likelihood=tabular, dtype=torch.float64)
    assert x.isnan().any()
    seen = []

    def guide(*args, **kwargs):
        seen.append(vae.guide(*args, **kwargs).detach())

    loss = make(spec, 4)
    rows = loss.rows(vae.model, guide, x)
    (z,) = seen
    log_weights = vae.decode(z).log_prob(x) + vae.prior().log_prob(z) - vae.encode(x).log_prob(z)
    assert torch.allclose(rows, loss.bound(log_weights.detach()), rtol=1e-10)


# Any Pyro model


def hierarchy(shift=0.0, seen=None, s=0.8, noise=0.5):
    """z2 ~ N(0, 1), z1_j ~ N(z2, s), x_j ~ N(z1_j, noise) for 3 columns j, all in closed form.

    Given z2 the columns are independent, x_j ~ N(z2, v) with v = s^2 + noise^2.
    """
    v, zero = s**2 + noise**2, torch.zeros(1, dtype=torch.float64)

    def model(x):
        with pyro.plate("rows", len(x), dim=-2):
            z2 = pyro.sample("z2", dist.Normal(zero, 1.0))
            with pyro.plate("columns", 3, dim=-1):
                z1 = pyro.sample("z1", dist.Normal(z2, s))
                pyro.sample("x", dist.Normal(z1, noise), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x), dim=-2):
            precision = 1 + 3 / v
            z2 = pyro.sample("z2", dist.Normal(shift + x.sum(1, keepdim=True) / v / precision, precision**-0.5))
            with pyro.plate("columns", 3, dim=-1):
                precision = 1 / s**2 + 1 / noise**2
                z1 = pyro.sample("z1", dist.Normal((z2 / s**2 + x / noise**2) / precision, precision**-0.5))
        if seen is not None:
            seen.append((z2.detach(), z1.detach()))

    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    eye = torch.eye(3, dtype=torch.float64)
    return model, guide, x, MultivariateNormal(torch.zeros(3, dtype=torch.float64), 1 + v * eye).log_prob(x)


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec not in ("gdreg", "rws(wake=0.5)")])
def test_two_latent_sites_and_a_plate_inside_the_rows(spec):
    model, guide, x, log_p = hierarchy()
    loss, tolerance = make(spec, 4, nesting=2), slack(spec) * 1e-12
    rows = loss.rows(model, guide, x)
    assert rows.shape == (5, 1)
    assert torch.allclose(rows[:, 0], log_p, rtol=tolerance, atol=0)
    for method in (loss.loss, loss.loss_and_grads, loss.differentiable_loss):
        value = number(method(model, guide, x))
        assert value == pytest.approx(sign(spec) * log_p.sum().item(), rel=tolerance)


def test_two_latent_sites_away_from_the_posterior():
    """The log-weight of a row is the sum over its columns: by hand from what was drawn."""
    seen = []
    model, guide, x, log_p = hierarchy(0.3, seen)
    rows = make("iwae", 6, nesting=2).rows(model, guide, x)[:, 0]
    ((z2, z1),) = seen
    v, precision = 0.8**2 + 0.5**2, 1 / 0.8**2 + 1 / 0.5**2
    outer = 0.3 + x.sum(1, keepdim=True) / v / (1 + 3 / v)
    log_weights = (
        Normal(z1, 0.5).log_prob(x)
        + Normal(z2, 0.8).log_prob(z1)
        - Normal((z2 / 0.8**2 + x / 0.5**2) / precision, precision**-0.5).log_prob(z1)
    ).sum(-1) + (Normal(0.0, 1.0).log_prob(z2) - Normal(outer, (1 + 3 / v) ** -0.5).log_prob(z2))[..., 0]
    assert torch.allclose(rows, log_weights.exp().mean(0).log(), rtol=1e-12)
    many = make("iwae", 6, nesting=2).rows(model, guide, x.repeat(400, 1)).reshape(400, 5).sum(1)
    assert log_p.sum() - 2 < many.mean() < log_p.sum() + 3 * many.std() / 20


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec != "rws(wake=0.5)"])
@pytest.mark.parametrize("plated", [False, True])
def test_a_model_without_a_shared_plate_is_one_row(spec, plated):
    """A global mean, z ~ N(0, 1), of 4 observations x_n ~ N(z, 0.5), in a plate of their own or as one event."""
    x = torch.tensor([0.3, -1.0, 2.0, 0.5], dtype=torch.float64)
    covariance = 1 + 0.25 * torch.eye(4, dtype=torch.float64)
    log_p = MultivariateNormal(torch.zeros(4, dtype=torch.float64), covariance).log_prob(x).item()

    def model():
        z = pyro.sample("z", dist.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0))
        if plated:
            with pyro.plate("rows", 4, dim=-1):
                pyro.sample("x", dist.Normal(z, 0.5), obs=x)
        else:
            pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, 4), 0.5).to_event(1), obs=x)

    def guide():
        pyro.sample("z", dist.Normal(x.sum() / 0.25 / 17, 17**-0.5))

    loss = make(spec, 4, nesting=int(plated))
    rows, tolerance = loss.rows(model, guide), slack(spec) * 1e-12
    assert rows.numel() == 1 and rows.ndim == plated
    assert rows.item() == pytest.approx(log_p, rel=tolerance)
    assert loss.loss_and_grads(model, guide) == pytest.approx(sign(spec) * log_p, rel=tolerance)


@pytest.mark.parametrize("spec", ["iwae", "stl", "dreg", "vimco", "rws", "tvo"])
@pytest.mark.parametrize("auto", [infer.autoguide.AutoDiagonalNormal, infer.autoguide.AutoNormal])
def test_guides_that_pyro_makes(spec, auto):
    """They draw a site of their own, and the latent as its image."""
    x = torch.tensor([0.4, -1.0])

    def model():
        with pyro.plate("rows", 2, dim=-1):
            z = pyro.sample("z", dist.LogNormal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.log(), 0.5), obs=x)

    guide = auto(model, init_loc_fn=infer.autoguide.init_to_value(values={"z": (x / 1.25).exp()}), init_scale=0.2**0.5)
    loss = make(spec, 4)
    guide()
    log_p = Normal(0.0, 1.25**0.5).log_prob(x).sum().item()
    for method in (loss.loss, loss.loss_and_grads):
        assert method(model, guide) == pytest.approx(-log_p, rel=1e-5)


def test_a_global_latent_is_refused_in_a_subsample():
    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 10 * len(x), subsample=torch.arange(len(x)), dim=-1):
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(0.0, 1.0))

    for spec in SPECS:
        with pytest.raises(ValueError, match="expected one scale for all sites.*at 'x'|.*at 'z'"):
            make(spec, 4).loss(model, guide, torch.randn(3))


# What is refused


@pytest.mark.parametrize(
    ("build", "match"),
    [
        *[(partial(make, spec, 0), "num_particles: expected a whole number of at least [12], got 0") for spec in SPECS],
        *[(partial(make, spec, 1), "num_particles: expected a") for spec in SEVERAL],
        (partial(make, "iwae", 2.0), "num_particles: expected a whole number"),
        (partial(make, "iwae", True), "num_particles: expected a whole number"),
        (partial(make, "iwae", 4, chunk=0), "chunk: expected a whole number of at least 1, got 0"),
        (partial(make, "rws(wake=0.5)", 4, chunk=2), "chunk: expected None with sleep-phi"),
        (partial(make, "miwae(groups=3)", 4), "expected a multiple of groups=3, got 4"),
        (partial(make, "piwae(groups=3)", 4), "expected a multiple of groups=3, got 4"),
        (partial(make, "miwae(groups=0)", 4), "groups: expected a whole number of at least 1, got 0"),
        (partial(elbos.Renyi, 4, alpha=math.inf), "alpha: expected a number below inf, got inf"),
        (partial(elbos.Renyi, 4, alpha=math.nan), "alpha: expected a number below inf, got nan"),
        *[
            (partial(kind, 4, beta=beta), f"beta: expected a number between .*, got {beta}")
            for kind, betas in ((elbos.CIWAE, (-0.1, 1.1, math.nan)), (elbos.TailAdaptive, (-1.1, 0.1, math.nan)))
            for beta in betas
        ],
        *[(partial(elbos.ReweightedWakeSleep, 4, wake=wake), "wake: expected a number between") for wake in (-0.1, 2)],
        *[(partial(elbos.TVO, 4, first_beta=beta), "first_beta: expected a number between") for beta in (0, 1, 2)],
        (partial(elbos.TVO, 4, partitions=0), "partitions: expected a whole number of at least 1"),
        *[(partial(elbos.CUBO, 4, order=order), "order: expected a finite number above 1") for order in (1, math.inf)],
        (partial(make, "jackknife(order=-1)", 4), "order: expected a whole number of at least 0"),
        *[
            (partial(make, f"jackknife(order={order})", order), f"expected more than order={order}, got {order}")
            for order in (1, 3)
        ],
        (partial(make, "renyi(beta=1)", 4), "has no argument 'beta'"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(build, match):
    with pytest.raises(ValueError, match=match):
        build()


def rows_of(*sites):
    """A program of the given sites over 3 rows; each is a name, a distribution and, for data, what was observed."""

    def program():
        with pyro.plate("rows", 3, dim=-1):
            for site, fn, *obs in sites:
                pyro.sample(site, fn, obs=obs[0] if obs else None)

    return program


UNIT = dist.Normal(0.0, 1.0)
DATA = ("x", UNIT, torch.zeros(3))


@pytest.mark.parametrize("spec", ["iwae", "dreg", "vimco"])
@pytest.mark.parametrize(
    ("model", "guide"),
    [
        ([("z", UNIT), ("y", UNIT), DATA], [("z", UNIT)]),
        ([("z", UNIT), DATA], [("z", UNIT), ("y", UNIT)]),
        ([("z", UNIT, torch.zeros(3)), DATA], [("z", UNIT)]),
        ([("z", UNIT), DATA], []),
    ],
)
def test_latent_sites_of_only_one_program_are_refused(spec, model, guide):
    with pytest.raises(ValueError, match="expected the same latent sites in model and guide, got .* in the model and"):
        make(spec, 4).loss(rows_of(*model), rows_of(*guide))


PATHWISE = [spec for spec in SPECS if name(spec) not in ("score_function", "vimco", "tvo", "rws")] + [
    "rws(doubly=True)"
]


@pytest.mark.parametrize("spec", PATHWISE)
def test_a_guide_without_a_path_is_refused_where_one_is_needed(spec):
    fn = dist.Categorical(torch.ones(2))
    loss = make(spec, 4)
    with pytest.raises(ValueError, match=r"reparameterised guide, and site 'c' \(Categorical\).*score_function, vimco"):
        loss.loss_and_grads(rows_of(("c", fn), DATA), rows_of(("c", fn)))
    assert math.isfinite(loss.loss(rows_of(("c", fn), DATA), rows_of(("c", fn)))), "the value needs no gradient"


@pytest.mark.parametrize("spec", SPECS)
def test_a_weight_on_one_term_is_refused(tiny, spec):
    vae, x, weight = tiny(), torch.randn(5, 3), elbos.KLWeight(0.5)
    pairs = [
        (weight(vae.model), weight(vae.guide)),
        (poutine.scale(vae.model, 0.5), vae.guide),
        (vae.model, poutine.scale(vae.guide, torch.linspace(1, 2, 5))),
    ]
    for model, guide in pairs:
        with pytest.raises(ValueError, match="expected one scale for all sites of a row, got .*plain ELBO only"):
            make(spec, 4).loss(model, guide, x)


def test_gdreg_refuses_two_latent_sites():
    model, guide, x, _ = hierarchy()
    with pytest.raises(ValueError, match="gdreg: expected a model with one latent site, got z2, z1. Choose dreg"):
        make("gdreg", 4, nesting=2).loss_and_grads(model, guide, x)


@pytest.mark.parametrize("prior", ["mixture(components=2)", "vamp(components=2)"])
def test_gdreg_refuses_a_prior_that_does_not_say_how_it_draws(tiny, prior):
    vae = tiny(prior=prior)
    with pytest.raises(ValueError, match="expected a distribution that says how it makes its draws of noise"):
        make("gdreg", 4).loss_and_grads(vae.model, vae.guide, torch.randn(5, 3))


@pytest.mark.filterwarnings("ignore:Failed to verify mean field restriction")
def test_a_closed_form_kl_needs_sites_in_one_order():
    a, b = ("a", UNIT), ("b", UNIT)
    loss = elbos.MeanField()
    assert loss.loss(rows_of(a, b, DATA), rows_of(a, b)) == pytest.approx(-3 * UNIT.log_prob(torch.tensor(0.0)).item())
    with pytest.raises(ValueError, match="expected latent sites in one order, got a, b in the model and b, a in the"):
        loss.loss(rows_of(a, b, DATA), rows_of(b, a))


def test_wake_sleep_asks_where_its_dreams_go():
    second = ("y", UNIT, torch.zeros(3))
    with pytest.raises(ValueError, match="feed: expected a model that observes one site.*got sites.*'x', 'y'"):
        make("rws(wake=0.5)", 4).loss_and_grads(rows_of(("z", UNIT), DATA, second), rows_of(("z", UNIT)))


# The tests themselves


def test_every_bug_can_still_be_planted():
    """See plant.py, beside this file."""
    assert plant.unmatched(plant.PACKAGE) == []
    assert len(plant.BUGS) >= 30
