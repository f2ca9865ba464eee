"""log p(x), ELBO and active units against the linear-Gaussian truth."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import pyrovae
from pyrovae import VAE
from pyrovae.evaluation.weights import log_mean_weight

ROWS = 40


@pytest.fixture
def truth(linear):
    """A linear-Gaussian model, rows of it, and the VAE whose posterior is exact but for ``shift`` and ``stretch``."""

    def make(dtype=torch.float64, **arguments):
        known = linear(n=ROWS, dtype=dtype, **arguments)
        return known.truth, known.x, known.vae

    return make


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 5e-6)])
def test_the_exact_posterior_gives_log_p_at_once(truth, dtype, tolerance):
    exact, x, vae = truth(dtype)
    value, error = pyrovae.log_marginal(vae, x, num_samples=7)
    expected = exact.log_prob(x)
    assert ((value - expected) / expected).abs().max() <= tolerance
    assert error.max() <= 10 * tolerance * expected.abs().max()
    rows = pyrovae.evaluate(vae, x, num_samples=50).rows
    np.testing.assert_allclose(rows["elbo"], expected, rtol=tolerance)
    assert (rows["k_hat"] == -math.inf).all()


def test_a_wrong_posterior_is_corrected_within_its_standard_error(truth):
    exact, x, vae = truth(shift=0.2, stretch=1.3)
    value, error = pyrovae.log_marginal(vae, x, num_samples=5000)
    z = (value - exact.log_prob(x)) / error
    assert z.abs().max() < 4.5
    assert 0.6 < z.std() < 1.5  # the error says how large the errors are
    assert (error > 0).all() and error.max() < 0.05


def test_elbo_and_its_split_in_closed_form(truth):
    exact, x, vae = truth(shift=0.2, stretch=1.3)
    q = vae.encode(x)
    loc, covariance = q.mean, torch.diag_embed(q.variance)
    count = 20_000
    rows = pyrovae.evaluate(vae, x, num_samples=count).rows
    log_weights = pyrovae.elbos.terms(vae.model, vae.guide, x, num_particles=2000)
    for name, expected, draws in (
        ("elbo", exact.elbo(x, loc, covariance), log_weights.log_weights),
        ("reconstruction", exact.reconstruction(x, loc, covariance), log_weights.reconstruction),
        ("kl", exact.kl(loc, covariance), log_weights.kl),
    ):
        error = draws.std(0) / math.sqrt(count)
        assert ((torch.tensor(rows[name]) - expected) / error).abs().max() < 4.5, name


def test_never_above_log_p_in_expectation(truth):
    exact, x, vae = truth(shift=0.3, stretch=0.8)
    expected = exact.log_prob(x).sum()
    means = []
    for count in (1, 4, 16, 64):
        estimates = torch.stack(
            [pyrovae.log_marginal(vae, x, num_samples=count, seed=s, progress=False).value.sum() for s in range(60)]
        )
        error = estimates.std() / math.sqrt(60)
        assert estimates.mean() < expected + 3 * error
        means.append(float(estimates.mean()))
    assert means == sorted(means)


def test_the_standard_error_by_hand():
    log_weights = torch.log(torch.tensor([[1.0], [2.0], [3.0], [6.0]], dtype=torch.float64)) - 400
    value, error = log_mean_weight(log_weights)
    weights = np.array([1.0, 2.0, 3.0, 6.0])
    assert float(value) == pytest.approx(math.log(3) - 400)
    assert float(error) == pytest.approx(weights.std(ddof=1) / math.sqrt(4) / 3)


def test_chunks_change_only_the_draws(truth):
    exact, x, vae = truth(shift=0.1)
    for chunk, rows in ((1, 3), (3, 9), (64, ROWS), (10_000, ROWS)):
        value, error = pyrovae.log_marginal(vae, x[:rows], num_samples=300, chunk=chunk, progress=False)
        assert ((value - exact.log_prob(x[:rows])) / error).abs().max() < 4.5


def test_active_units_and_summary(truth):
    exact, x, vae = truth()
    with torch.no_grad():
        vae.posterior.head.weight[1] = 0.0  # the second unit's mean no longer depends on x
    evaluation = pyrovae.evaluate(vae, x, num_samples=100)
    assert evaluation.units["active"].tolist() == [True, False]
    expected = np.var(vae.encode(x).mean[:, 0].detach().numpy())
    assert evaluation.units["variance"][0] == pytest.approx(expected)
    summary = evaluation.summary()
    assert summary["active_units"] == 1 and summary["latent_dim"] == 2 and summary["rows"] == ROWS
    rows = evaluation.rows
    assert summary["elbo"] == pytest.approx(rows["elbo"].mean())
    assert summary["elbo"] == pytest.approx(summary["reconstruction"] - summary["kl"])
    assert summary["log_marginal_standard_error"] == pytest.approx(rows["log_marginal"].std(ddof=1) / math.sqrt(ROWS))
    errors = rows["log_marginal_standard_error"]
    assert summary["log_marginal_monte_carlo_error"] == pytest.approx(math.sqrt((errors**2).sum()) / ROWS)
    assert "bits_per_dim" not in summary
    assert "active units" in str(evaluation)


def test_bits_per_dim_of_binary_pixels():
    vae = VAE((1, 4, 4), 2)
    with torch.no_grad():
        vae.likelihood.head.weight.zero_()  # every pixel is a fair coin: one bit each
    x = (torch.rand(5, 1, 4, 4) > 0.5).float()
    assert pyrovae.evaluate(vae, x, num_samples=3000).summary()["bits_per_dim"] == pytest.approx(1.0, abs=0.02)


def test_nothing_moves(truth):
    _, x, vae = truth()
    network = nn.Sequential(nn.BatchNorm1d(6), nn.Dropout())
    vae = VAE((6,), 2, likelihood="gaussian", encoder=network)
    network[1].eval()
    before = {key: value.clone() for key, value in vae.state_dict().items()}
    state = torch.random.get_rng_state()
    first = pyrovae.evaluate(vae, x, num_samples=30)
    second = pyrovae.evaluate(vae, x, num_samples=30)
    assert first.rows.equals(second.rows)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[key], value) for key, value in vae.state_dict().items())
    assert network[0].training and not network[1].training


def test_bad_input(truth):
    _, x, vae = truth()
    with pytest.raises(ValueError, match="unknown method 'impotance'.*importance"):
        pyrovae.log_marginal(vae, x, method="impotance")
    with pytest.raises(ValueError, match="at least 1, got 0"):
        pyrovae.log_marginal(vae, x, num_samples=0)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        pyrovae.evaluate(vae, x, num_samples=0)
    x = x.clone()
    x[7, 2] = math.nan
    with pytest.raises(ValueError, match="got nan at row 7, column 2"):
        pyrovae.evaluate(vae, x)


def test_weights_that_are_no_numbers_are_named(truth):
    _, x, vae = truth()
    with torch.no_grad():
        vae.likelihood.head.weight.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="row 0"):
        pyrovae.log_marginal(vae, x, num_samples=5)
