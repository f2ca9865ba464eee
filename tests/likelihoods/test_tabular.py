"""Tables of columns of different types: densities in the table's units, missing cells, features, imputation."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

import pyrovae
from pyrovae import VAE, likelihoods
from pyrovae.datasets import Column, LinearGaussian
from pyrovae.distributions import Product, inverse_scale
from pyrovae.evaluation.impute import impute

NAN = math.nan
FLOAT64 = torch.float64
COLUMNS = [
    Column("height", "real"),
    Column("job", "categorical", ("clerk", "nurse", "pilot")),
    Column("children", "count"),
    Column("size", "ordinal", ("S", "M", "L", "XL")),
    Column("income", "positive"),
    Column("weight", "real"),
    Column("sex", "categorical", ("f", "m")),
]
D = len(COLUMNS)
CODES = {1: 3, 3: 4, 6: 2}


def table(n=400, seed=0, missing=0.0, dtype=FLOAT64):
    rng = np.random.default_rng(seed)
    x = np.stack(
        [
            rng.normal(170, 10, n),
            rng.choice(3, n, p=[0.5, 0.3, 0.2]),
            rng.negative_binomial(2, 0.3, n),
            rng.choice(4, n, p=[0.1, 0.4, 0.3, 0.2]),
            np.exp(rng.normal(10, 0.7, n)),
            rng.normal(-0.07, 0.003, n),
            rng.choice(2, n),
        ],
        1,
    )
    x[rng.random(x.shape) < missing] = NAN
    return torch.tensor(x, dtype=dtype)


def built(x=None, columns=COLUMNS, **arguments):
    """A piece started on a table, and how many numbers it needs."""
    piece = likelihoods.Tabular(columns, **arguments)
    size = piece.build((len(columns),))
    piece.double()
    return piece, size if x is None else piece.initial(x)


def numbers(size, *shape, scale=1.0, seed=1):
    return scale * torch.randn(*shape, size, dtype=FLOAT64, generator=torch.Generator().manual_seed(seed))


def only(column, values):
    """Rows in which one column is there and the others are missing."""
    rows = torch.full((len(values), D), NAN, dtype=FLOAT64)
    rows[:, column] = torch.as_tensor(values, dtype=FLOAT64)
    return rows


# The density


@pytest.mark.parametrize("column", range(D))
def test_each_column_is_normalized(column):
    """By integration or summation over the values of one column with the others missing, at drawn parameters."""
    piece, start = built(table())
    p = piece(start + numbers(len(start), scale=0.5))

    def density(values):
        return p.log_prob(only(column, values)).exp()

    kind = COLUMNS[column].kind
    if column in CODES:
        total = density(range(CODES[column])).sum().item()
    elif kind == "count":
        total = density(range(20_000)).sum().item()
    elif kind == "real":
        mean = p.mean[column].item()
        width = 12 * {0: 20, 5: 0.006}[column]
        total = quad(lambda v: density([v]).item(), mean - width, mean + width, points=[mean], limit=200)[0]
    else:
        total = quad(lambda u: density([math.exp(u)]).item() * math.exp(u), 0, 20, limit=200)[0]
    assert total == pytest.approx(1, abs=1e-6)


def test_columns_are_independent_and_missing_cells_are_integrated_out():
    x = table(50)
    piece, start = built(x)
    p = piece(start + numbers(len(start), 50))
    alone = [p.log_prob(torch.where(torch.arange(D) == d, x, NAN)) for d in range(D)]
    assert p.log_prob(x).tolist() == pytest.approx(sum(alone).tolist(), rel=1e-12)
    holes = table(50, missing=0.4)
    there = ~torch.isnan(holes)
    expected = sum(torch.where(there[:, d], log_prob, 0.0) for d, log_prob in enumerate(alone))
    assert p.log_prob(holes).tolist() == pytest.approx(expected.tolist(), rel=1e-12)
    assert p.log_prob(torch.full((50, D), NAN, dtype=FLOAT64)).tolist() == [0.0] * 50


def test_real_and_positive_columns_by_the_formulas():
    """N(x; m + s u, (s sigma)^2), and the same of log x with its Jacobian, at the column's own m and s."""
    columns = [COLUMNS[0], COLUMNS[4]]
    x = table(30)[:, [0, 4]]
    piece, _ = built(x, columns, floor=0.05)
    params = numbers(2, 30)
    with torch.no_grad():
        for part in piece.pieces:
            part.raw_scale.fill_(0.3)
    scale = 0.05 + math.log1p(math.exp(0.3))
    a, b, u = x[:, 0].numpy(), x[:, 1].numpy(), params.numpy()
    expected = stats.norm.logpdf(a, a.mean() + a.std() * u[:, 0], a.std() * scale)
    logs = np.log(b)
    expected = expected + stats.lognorm.logpdf(b, logs.std() * scale, scale=np.exp(logs.mean() + logs.std() * u[:, 1]))
    assert piece(params).log_prob(x).tolist() == pytest.approx(expected.tolist(), rel=1e-10)


@pytest.mark.parametrize(("factor", "shift"), [(1e4, 0.0), (1e-3, 0.0), (2.5, 300.0)])
def test_log_density_is_in_the_units_of_the_table(factor, shift):
    """A table in other units has the same model: log p changes by -log of the factor for each cell that is there."""
    x = table(60, missing=0.2)
    scaled = x.clone()
    scaled[:, 0] = factor * x[:, 0] + shift
    scaled[:, 4] *= factor
    (one, start), (other, begin) = built(x), built(scaled)
    assert torch.allclose(start, begin)
    params = start + numbers(len(start), 60)
    cells = (~torch.isnan(x[:, [0, 4]])).sum(1)
    difference = other(params).log_prob(scaled) - one(params).log_prob(x)
    assert torch.allclose(difference, -cells.double() * math.log(factor), rtol=1e-9, atol=1e-9)
    # The encoder sees the same too.
    assert torch.allclose(one.features(x), other.features(scaled))


def test_the_start_is_the_table_column_by_column():
    x = table(4000, missing=0.25)
    piece, start = built(x)
    p = piece(start)
    mean, logs = x.nanmean(0), x[:, 4].log()
    for column in (0, 5):
        assert p.mean[column].item() == pytest.approx(mean[column].item(), rel=1e-3)
    assert p.mean[2].item() == pytest.approx(mean[2].item(), rel=0.02)
    assert p.mode[4].log().item() == pytest.approx((logs.nanmean() - logs[~logs.isnan()].var()).item(), rel=1e-3)
    for column, classes in CODES.items():
        shares = [(x[:, column] == code).sum() / (~x[:, column].isnan()).sum() for code in range(classes)]
        found = p.log_prob(only(column, range(classes))).exp()
        assert found.tolist() == pytest.approx([share.item() for share in shares], abs=0.01)


def test_the_start_ignores_missing_cells():
    """Half of the cells are missing, and the start is that of the other half; a shifted NaN would show."""
    x = table(200)
    holes = torch.cat([x, torch.full_like(x, NAN)])[torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    (one, start), (other, begin) = built(x), built(holes)
    # But for half a count that is added to each category.
    assert torch.allclose(start, begin, atol=0.01) and torch.allclose(one.center, other.center)
    assert torch.allclose(one.spread, other.spread)
    with pytest.raises(ValueError, match="column 'size': expected values, got none in any row. Drop it."):
        built(torch.where(torch.arange(D) == 3, NAN, x))


def test_features():
    x = table(100)
    piece, _ = built(x)
    x[0] = torch.tensor([NAN, 2, NAN, NAN, NAN, 0, 1])
    seen = piece.features(x)
    assert seen.shape == (100, 4 + 3 + 4 + 2 + D)
    raw = torch.stack([x[:, 0], x[:, 2].log1p(), x[:, 4].log(), x[:, 5]], 1)
    expected = (raw - piece.center[[0, 2, 4, 5]]) / piece.spread[[0, 2, 4, 5]]
    assert torch.allclose(seen[1:, :4], expected[1:])
    assert seen[1:, :3].mean(0).abs().max() < 0.2 and (seen[1:, :3].std(0) - 1).abs().max() < 0.2
    assert seen[0, :3].tolist() == [0, 0, 0]
    # Codes of job, sex and size: the groups of columns of one kind and size come in order of their first column.
    assert seen[0, 4:].tolist() == [0, 0, 1, *[0] * 4, 0, 1, *[1, 0, 1, 1, 1, 0, 0]]
    assert seen[1:, 4:7].argmax(1).tolist() == x[1:, 1].tolist()
    assert seen[1:, 4:13].sum(1).tolist() == [3] * 99 and not seen[1:, 13:].any()


# The distribution


def test_draws_have_the_moments_of_the_columns():
    piece, start = built(table())
    p = piece(start)
    torch.manual_seed(3)
    draws = p.expand((20_000,)).sample()
    assert p.support.check(draws).all() and piece.support.check(draws).all()
    for column in (0, 2, 4, 5):
        values = draws[:, column]
        z = (values.mean() - p.mean[column]) / (values.std() / math.sqrt(len(values)))
        assert abs(z) < 4, column
    for column, classes in CODES.items():
        q = p.log_prob(only(column, range(classes))).exp()
        shares = torch.bincount(draws[:, column].long(), minlength=classes) / len(draws)
        assert ((shares - q) / (q * (1 - q) / len(draws)).sqrt()).abs().max() < 4, column
        assert p.mode[column] == q.argmax()
        rank = (q * torch.arange(classes)).sum()
        assert p.mean[column].item() == pytest.approx(rank.item() if column == 3 else q.argmax().item())


def test_shapes():
    piece, start = built(table())
    p = piece(numbers(len(start), 5, 4))
    assert isinstance(p, Product) and (p.batch_shape, p.event_shape) == ((5, 4), (D,))
    assert p.sample().shape == p.mean.shape == p.mode.shape == (5, 4, D) and p.sample((3,)).shape == (3, 5, 4, D)
    wide = p.expand((2, 5, 4))
    x = table(20).reshape(5, 4, D)
    assert wide.log_prob(x).shape == (2, 5, 4) and torch.equal(wide.log_prob(x)[1], p.log_prob(x))
    assert not p.has_rsample
    real = built(None, [Column("a"), Column("b", "positive")])[0](numbers(2, 3).requires_grad_())
    assert real.has_rsample and real.rsample().requires_grad and not real.sample().requires_grad


def test_support_cell_by_cell():
    piece, start = built(table())
    x = table(4)
    assert piece.support.check(x).all() and not piece.support.is_discrete
    wrong = torch.tensor([[math.inf, 3, -1, 4, 0, NAN, 2], [0, 0.5, 1.5, -1, -1, 0, -1]], dtype=FLOAT64)
    expected = [[True] + [False] * 6, [True, False, False, False, False, True, False]]
    assert piece.support.check(wrong)[:, 1:].tolist() == [row[1:] for row in expected]
    # The distribution takes missing cells, and Pyro's own check still finds the others.
    p = piece(start)
    assert p.support.check(torch.full((D,), NAN, dtype=FLOAT64))
    with pytest.raises(ValueError, match="support"):
        p.log_prob(only(2, [-1.0]))
    assert likelihoods.Tabular(COLUMNS[1:4]).support.is_discrete


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64], ids=str)
@pytest.mark.parametrize("value", [-1e3, 0.0, 1e3])
def test_extreme_numbers(value, dtype):
    x = table(20, missing=0.3, dtype=dtype)
    x[0, 2] = 1e6
    piece = likelihoods.Tabular(COLUMNS)
    params = torch.full((20, piece.build((D,))), value, dtype=dtype)
    piece.to(dtype).initial(x)
    params.requires_grad_()
    p = piece(params)
    log_prob = p.log_prob(x)
    (gradient,) = torch.autograd.grad(log_prob.sum(), params)
    assert torch.isfinite(log_prob).all() and torch.isfinite(gradient).all() and log_prob.dtype == dtype
    assert torch.isfinite(p.sample()).all() and torch.isfinite(p.mean).all()
    # What is missing teaches nothing.
    empty = torch.full_like(x, NAN)
    (gradient,) = torch.autograd.grad(piece(params).log_prob(empty).sum(), params)
    assert not gradient.any()


def test_single_and_double_precision_agree():
    x = table(50, missing=0.2)
    double, start = built(x)
    single = copy.deepcopy(double).float()
    params = start + numbers(len(start), 50)
    expected = double(params).log_prob(x)
    assert torch.allclose(single(params.float()).log_prob(x.float()).double(), expected, rtol=1e-4, atol=1e-3)


def test_a_constant_column():
    columns = [Column("a"), Column("b", "positive"), Column("c", "count")]
    x = torch.tensor([[0.1, 5.0, 3.0]], dtype=FLOAT64).expand(20, 3)
    piece, start = built(x, columns)
    assert piece.center.tolist() == pytest.approx([0.1, math.log(5), math.log(4)]) and piece.spread.tolist() == [1] * 3
    assert torch.isfinite(piece(start).log_prob(x)).all() and torch.isfinite(piece.features(x)).all()


# In a VAE


def test_it_trains_on_missing_cells_and_is_saved(tmp_path, same):
    x = table(200, missing=0.3, dtype=torch.float32)
    torch.manual_seed(0)
    vae = VAE((D,), 2, likelihood=likelihoods.Tabular(COLUMNS), encoder="mlp(hidden=[8])", decoder="mlp(hidden=[8])")
    history = pyrovae.fit(vae, x, validation=table(50, 1, 0.3, torch.float32), epochs=5, lr=0.01, progress=False)
    assert history["elbo"].iloc[-1] > history["elbo"].iloc[0]
    assert np.isfinite(pyrovae.evaluate(vae, x[:10], num_samples=50, progress=False).summary()["log_marginal"])
    loaded = pyrovae.load(pyrovae.save(vae, tmp_path))
    assert same(loaded, vae) and loaded.likelihood.piece.columns == [column.to_dict() for column in COLUMNS]
    for other in (loaded, copy.deepcopy(vae)):
        assert torch.equal(impute(other, x[:5], seed=2), impute(vae, x[:5], seed=2))
    for rows in (vae.sample(5), vae.reconstruct(x[:5]), vae.reconstruct(x[:5], mean=False)):
        assert rows.shape == (5, D) and torch.isfinite(rows).all()


def test_mistakes_name_row_and_column(tiny):
    vae = tiny((D,), likelihood=likelihoods.Tabular(COLUMNS))
    x = table(5, missing=0.5, dtype=torch.float32)
    x[3, 2] = 1.5
    names = [column.name for column in COLUMNS]
    with pytest.raises(
        ValueError, match=r"\(Tabular\), got 1.5 at row 3, column 'children' \(1 of 35 .* of its column"
    ):
        vae.check(x, names)
    with pytest.raises(ValueError, match=r"one column for each element of an event of shape \(4,\), got 7 columns"):
        tiny((4,), likelihood=likelihoods.Tabular(COLUMNS))
    with pytest.raises(ValueError, match="got 0 columns. Pass columns="):
        tiny((4,), likelihood="tabular")
    with pytest.raises(ValueError, match="tabular floor: expected a finite number above 0, got 0"):
        likelihoods.Tabular(COLUMNS, floor=0)
    by_name = tiny((2,), likelihood="tabular(columns=[{'name': 'a'}, {'name': 'b', 'kind': 'count'}])")
    assert by_name.likelihood.piece.columns == [{"name": "a", "kind": "real"}, {"name": "b", "kind": "count"}]


# Imputation


@pytest.fixture(scope="module")
def exact():
    """A linear-Gaussian VAE with holes in its rows, and the conditional Gaussian of what is missing given the rest."""
    truth = LinearGaussian.random(5, 2, scale=0.5, seed=3)
    x = truth.sample(12, seed=4)
    holes = torch.rand(x.shape, generator=torch.Generator().manual_seed(5)) < 0.4
    holes[0, :4], holes[0, 4], holes[1] = True, False, False
    vae = VAE(
        (5,),
        2,
        likelihood=likelihoods.Tabular([Column(name) for name in "abcde"], floor=1e-3),
        encoder="mlp(hidden=[8])",
        decoder=torch.nn.Identity(),
    ).double()
    piece = vae.likelihood.piece
    with torch.no_grad():
        # The piece is in units of its own, which the weights have to undo.
        piece.center.copy_(torch.linspace(-1, 1, 5))
        piece.spread.copy_(torch.linspace(0.5, 2, 5))
        piece.pieces[0].raw_scale.copy_(inverse_scale(0.5 / piece.spread, 1e-3))
        vae.likelihood.head.weight.copy_(truth.weight / piece.spread[:, None])
        vae.likelihood.head.bias.copy_((truth.bias - piece.center) / piece.spread)
        vae.posterior.head.weight.zero_()  # q = N(0, 1.3^2): a rough encoder, which the weights make good
        vae.posterior.head.bias[2:] = inverse_scale(torch.tensor(1.3, dtype=FLOAT64), 1e-4)
    covariance = truth.weight @ truth.weight.T + 0.25 * torch.eye(5, dtype=FLOAT64)
    mean, sd, log_prob = x.clone(), torch.zeros_like(x), torch.zeros(12, dtype=FLOAT64)
    for row, m in enumerate(holes):
        o = ~m
        gain = covariance[m][:, o] @ torch.linalg.inv(covariance[o][:, o]) if o.any() else covariance[m][:, o]
        mean[row, m] = truth.bias[m] + gain @ (x[row, o] - truth.bias[o])
        sd[row, m] = (covariance[m][:, m] - gain @ covariance[o][:, m]).diagonal().sqrt()
        if o.any():
            there = covariance[o][:, o].numpy()
            log_prob[row] = stats.multivariate_normal.logpdf(x[row, o].numpy(), truth.bias[o].numpy(), there)
    return vae, torch.where(holes, NAN, x), mean, sd, log_prob


def test_imputed_means_are_the_conditional_means(exact):
    vae, x, mean, sd, _ = exact
    runs = torch.stack([impute(vae, x, num_samples=4000, seed=seed) for seed in range(8)])
    there = ~torch.isnan(x)
    assert torch.equal(runs[0][there], x[there])
    error = runs.std(0)[~there] / math.sqrt(8)
    z = (runs.mean(0) - mean)[~there] / error
    assert z.abs().max() < 6 and (error < 0.05 * sd[~there].max()).all()  # t of 7 degrees of freedom


def test_imputed_draws_have_the_conditional_moments(exact):
    vae, x, mean, sd, _ = exact
    draws = impute(vae, x, num_samples=4000, draws=2000, seed=1, chunk=50_000)
    assert draws.shape == (2000, 12, 5)
    there = ~torch.isnan(x)
    assert torch.equal(draws[7][there], x[there])
    assert ((draws.mean(0) - mean) / sd)[~there].abs().max() < 0.12
    assert (draws.std(0) / sd)[~there].sub(1).abs().max() < 0.1


def test_log_marginal_of_the_observed_cells(exact):
    vae, x, _, _, log_prob = exact
    value, error = pyrovae.log_marginal(vae, x, num_samples=20_000, progress=False)
    assert ((value - log_prob).abs() < 4 * error + 1e-9).all()


def test_imputed_categories():
    """Of a mixture over draws: the likeliest category, the median of an ordered one."""
    columns = [Column("a"), Column("b", "categorical", range(3)), Column("c", "ordinal", range(4))]
    torch.manual_seed(0)
    vae = VAE((3,), 2, likelihood=likelihoods.Tabular(columns), decoder=torch.nn.Identity()).double()
    with torch.no_grad():
        vae.likelihood.head.weight.normal_(0, 2)
        vae.likelihood.head.bias.copy_(torch.linspace(1, -0.5, 5))
        vae.posterior.head.weight.zero_()
    x = torch.tensor([[0.3, NAN, NAN], [-1.0, NAN, NAN]], dtype=FLOAT64)
    found = impute(vae, x, num_samples=10_000)
    grid = torch.linspace(-6, 6, 121, dtype=FLOAT64)
    z = torch.cartesian_prod(grid, grid)
    with torch.no_grad():
        p = vae.decode(z)

    def density(cells):
        return (p.log_prob(cells.expand(len(z), 3)) - z.square().sum(-1) / 2).exp().sum()

    for row, value in zip(found, x, strict=True):
        cells = {column: value.repeat(classes, 1) for column, classes in ((1, 3), (2, 4))}
        for column, rows in cells.items():
            rows[:, column] = torch.arange(len(rows))
        nominal, ordered = (torch.stack([density(r) for r in rows]) / density(value) for rows in cells.values())
        assert nominal.sum().item() == pytest.approx(1) and ordered.sum().item() == pytest.approx(1)
        # The median is asked for where it is not the mode.
        assert row[1] == nominal.argmax() and row[2] == (ordered.cumsum(0) < 0.5).sum() != ordered.argmax()


def test_imputation_leaves_the_random_state_and_says_what_it_cannot_do(exact, tiny):
    vae, x, *_ = exact
    state = torch.get_rng_state()
    assert torch.equal(impute(vae, x), impute(vae, x.numpy()))
    assert not torch.equal(
        impute(vae, x),
        impute(vae, x, seed=1),
    ) and torch.equal(torch.get_rng_state(), state)
    with pytest.raises(
        ValueError, match="a model that knows missing cells, got the likelihood Gaussian. Build the VAE with missing="
    ):
        impute(tiny(), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="draws: expected a whole number of at least 1, got 0"):
        impute(vae, x, draws=0)
