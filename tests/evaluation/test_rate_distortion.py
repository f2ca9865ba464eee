"""The rate-distortion curve against the one of a Gaussian source, which is known."""

import math

import numpy as np
import pytest
import torch
from joblib import parallel_config
from joblib.parallel import ThreadingBackend
from torch import nn

import pyrovae
from pyrovae import VAE
from pyrovae.training.sweep import sweep

VARIANCES = [4.0, 2.0, 0.7]


def source():
    """Rows whose covariance is exactly diagonal."""
    x = torch.randn(64, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / len(x))).T
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).Q
    return x * torch.tensor(VARIANCES, dtype=torch.float64).sqrt() @ rotation


def linear(size):
    return VAE((3,), size, likelihood="gaussian(scale=1.0)", encoder=nn.Identity(), decoder=nn.Identity()).double()


def test_reverse_water_filling():
    """Cover & Thomas, Elements of Information Theory, 10.3.3: at the level theta = beta (the noise is 1), a component
    of variance v has a distortion of min(v, theta) and a rate of log(v / theta) / 2 where that is above 0."""
    x = source()
    for size, kept, betas in ((3, VARIANCES, [0.5, 3.0]), (1, VARIANCES[:1], [1.0])):
        table = pyrovae.rate_distortion(
            linear, x, x, latent_dims=[size], betas=betas, epochs=250, batch_size=64, lr=0.05, schedule="cosine",
            elbo="mean_field_elbo", num_particles=16, num_samples=1000, progress=False,
        )  # fmt: skip
        lost = sum(VARIANCES) - sum(kept)
        for beta in betas:
            found = table.loc[size, beta]
            rate = sum(max(0.0, math.log(v / beta) / 2) for v in kept)
            distortion = (sum(min(v, beta) for v in kept) + lost) / 2 + 1.5 * math.log(2 * math.pi)
            assert found["rate"] == pytest.approx(rate, abs=0.02)
            assert found["distortion"] == pytest.approx(distortion, abs=0.03)
            assert found["elbo"] == pytest.approx(-(found["rate"] + found["distortion"]), rel=1e-9)
            assert found["active_units"] == sum(v > beta for v in kept)
            assert 0 < found["rate_standard_error"] < 0.2 and 0 < found["elbo_standard_error"] < 0.5


def test_the_picture_and_what_is_refused():
    from pyrovae.plots import plot_rate_distortion

    x = source()
    table = pyrovae.rate_distortion(linear, x, x, latent_dims=[1, 2], betas=[0.5, 2.0], epochs=1, progress=False)
    ax = plot_rate_distortion(table).axes[0]
    assert np.array_equal(ax.lines[1].get_xdata(), table.loc[2]["rate"])
    assert len(ax.lines) == 3 and len(ax.texts) == 2
    with pytest.raises(ValueError, match="expected one latent_dim and one beta or more"):
        pyrovae.rate_distortion(linear, x, x, betas=[])
    with pytest.raises(ValueError, match="latent_dims: expected a whole number of at least 1, got 0"):
        pyrovae.rate_distortion(linear, x, x, latent_dims=[0])
    with pytest.raises(ValueError, match="beta"):
        pyrovae.rate_distortion(linear, x, x, latent_dims=[1], betas=[-1.0], epochs=1)


def test_jobs_at_a_time_give_the_same():
    """In processes of their own, by joblib, and in the order of the settings."""
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))

    def run(n_jobs):
        return pyrovae.rate_distortion(
            lambda size: VAE((3,), size, likelihood="gaussian"), x, x, latent_dims=[1, 2], betas=[0.5], epochs=2,
            n_jobs=n_jobs, progress=False,
        )  # fmt: skip

    assert run(2).equals(run(1))


def test_a_backend_that_gives_all_results_at_once(monkeypatch):
    """As that of Ray does."""
    monkeypatch.setattr(ThreadingBackend, "supports_return_generator", False)
    with parallel_config("threading"):
        assert sweep(pow, [(2, 3), (3, 2)], n_jobs=2, progress=False) == [8, 9]
