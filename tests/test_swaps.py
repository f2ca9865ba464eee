"""What a swap asks of the VAE: priors that take a condition, points and rows that depend on one another, mistakes."""

import math

import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam

import pyrovae
from pyrovae import Piece, plots, posteriors, priors
from pyrovae.serialization import describe

from swaps import CONDITION, LIKELIHOODS, PRIORS, ROWS, build  # isort: skip


def test_a_conditional_prior_needs_a_condition():
    with pytest.raises(ValueError, match="prior: Conditional needs a condition, got condition_dim=0"):
        pyrovae.VAE((4,), 2, prior="conditional")
    with pytest.raises(ValueError, match="gp: expected a VAE with a condition"):
        pyrovae.VAE((4,), 2, prior="gp")


def test_a_conditional_prior_is_one_of_the_condition():
    vae, (x, condition) = build("conditional")
    prior = vae.prior(condition, condition)
    assert prior.batch_shape == (ROWS,) and prior.event_shape == (4,)
    assert not torch.equal(prior.mean[0], prior.mean[1])
    # Written out: network, head and the normal's own parameterisation.
    params = vae.prior.head(vae.prior.network(condition))
    loc, raw = params.split(4, -1)
    expected = dist.Normal(loc, 1e-4 + torch.nn.functional.softplus(raw)).to_event(1)
    z = torch.randn(ROWS, 4)
    torch.testing.assert_close(prior.log_prob(z), expected.log_prob(z))
    svi = SVI(vae.model, vae.guide, Adam({"lr": 0.01}), Trace_ELBO())
    before = vae.prior.head.weight.detach().clone()
    svi.step(x, condition)
    assert not torch.equal(vae.prior.head.weight, before)


@pytest.mark.parametrize("condition_on", [("encoder", "decoder"), ("encoder",), ("decoder",), ()])
def test_networks_that_see_the_condition(condition_on):
    vae, (x, condition) = build("conditional", condition_on=condition_on)
    other = condition + 1
    sees = {
        "encoder": not torch.equal(vae.encode(x, condition).mean, vae.encode(x, other).mean),
        "decoder": not torch.equal(vae.decode(x, condition).mean, vae.decode(x, other).mean),
    }
    assert sees == {name: name in condition_on for name in sees}
    assert describe(vae)["condition_on"] == list(condition_on)
    with pytest.raises(ValueError, match="condition_on: expected some of encoder, decoder, got 'prior'"):
        build("conditional", condition_on=("prior",))


def test_a_point_has_no_log_marginal():
    vae, (x, _) = build(posterior="delta")
    with pytest.raises(ValueError, match=r"the posterior \(Delta\) is a point, which has no density"):
        pyrovae.log_marginal(vae, x)
    evaluation = pyrovae.evaluate(vae, x, num_samples=30)
    assert evaluation.rows[["elbo", "kl", "log_marginal", "k_hat"]].isna().all(axis=None)
    assert evaluation.rows["reconstruction"].notna().all()
    assert "the posterior (Delta) is a point" in str(evaluation)
    idata = pyrovae.to_inference_data(vae, x, num_samples=3)
    assert math.isnan(idata["sample_stats"]["k_hat"].values[0])


def test_rows_that_depend_on_one_another_come_together():
    vae, (x, condition) = build("gp")
    message = rf"expected all {ROWS} rows in one batch, got 2. Pass x in memory with batch_size={ROWS}"
    with pytest.raises(ValueError, match=message):
        pyrovae.fit(vae, x, condition, batch_size=2, epochs=1, progress=False)
    history = pyrovae.fit(vae, x, condition, validation=x, validation_condition=condition, epochs=2, progress=False)
    assert history["validation_elbo"].notna().all()
    with pytest.raises(ValueError, match=r"the prior \(GP\) makes rows depend on one another"):
        pyrovae.log_marginal(vae, x, condition)
    # The same ELBO whatever the chunk, because rows are never parted.
    one = pyrovae.evaluate(vae, x, condition, num_samples=40, chunk=1).summary()["elbo"]
    assert one == pytest.approx(pyrovae.evaluate(vae, x, condition, num_samples=40).summary()["elbo"], abs=1.0)


def test_a_users_piece_that_lives_where_the_prior_does():
    """It need not say so: its distribution does."""

    class LogNormal(Piece):
        numbers = 2

        def forward(self, params):
            loc, scale = self.split(params)
            return dist.LogNormal(loc, scale.exp()).to_event(1)

    vae = pyrovae.VAE((4,), 2, prior="gamma", posterior=LogNormal(), likelihood="gaussian")
    assert vae.posterior.carry is None and (vae.encode(torch.zeros(3, 4)).sample() > 0).all()


@pytest.mark.parametrize("prior", [prior for prior, kind in PRIORS.items() if kind in ("simplex", "sphere", "unit")])
def test_figures_of_latents_that_are_no_real_vectors(prior):
    vae, (x, _) = build(prior, "power_spherical" if PRIORS[prior] == "sphere" else "normal")
    figure = plots.plot_traversal(vae, x)
    assert figure.axes[-1].get_ylabel() == "quantile of the unit"
    assert len(plots.plot_latent(vae, x).axes) == 1


def test_figures_leave_missing_cells_out():
    table = next(spec for spec, kind in LIKELIHOODS.items() if kind == "table")
    vae, (x, _) = build(likelihood=table)
    assert torch.isnan(x).any()
    assert len(plots.plot_reconstructions(vae, x).axes) == 4
    assert len(plots.plot_samples(vae, 50, x).axes) == 4


def test_a_piece_made_of_what_json_does_not_hold_is_custom():
    vae = pyrovae.VAE((4,), 2, likelihood="gaussian", prior=priors.Conditional(posteriors.FullRank()), condition_dim=2)
    assert describe(vae)["prior"]["base"] == {"name": "full_rank", "floor": 1e-4}
    prior = priors.Normal()
    prior.floor = torch.tensor(0.1)
    assert "custom" in describe(pyrovae.VAE((4,), 2, likelihood="gaussian", prior=prior))["prior"]
    assert CONDITION == 2
