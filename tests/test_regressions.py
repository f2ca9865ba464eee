"""Bugs found by trying to break it, one a test."""

import math
import pickle

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import infer
from torch import nn

from pyrovae import VAE, fit, likelihoods, load, posteriors, priors, save
from pyrovae.piece import Piece

X = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
C = torch.randn(10, 2)


def run(v, x=X, *a, **k):
    return fit(v, x, *a, **{"epochs": 2, "progress": False, **k})


def test_load_leaves_random_state(tiny, tmp_path):
    path = save(tiny(), tmp_path)
    s = torch.get_rng_state()
    load(path)
    assert torch.equal(s, torch.get_rng_state())


def affine():
    t = dist.transforms.AffineTransform(torch.ones(2), 2 * torch.ones(2), event_dim=1)
    return dist.TransformedDistribution(dist.Normal(torch.zeros(2), 1.0).to_event(1), [t])


def test_fit_twice_with_a_transformed_prior(tiny):
    v = tiny(prior=affine())
    run(v)
    run(v)


def test_a_used_transformed_distribution_as_prior(tiny):
    d = affine()
    d.log_prob(torch.zeros(2))
    tiny(prior=d)


def test_transform_module_prior_follows_dtype(tiny):
    d = dist.TransformedDistribution(
        dist.Normal(torch.zeros(2), 1.0).to_event(1), [dist.transforms.affine_autoregressive(2)]
    )
    tiny(prior=d).double().sample(3)


def test_mixture_same_family_prior(tiny):
    tiny(prior=dist.MixtureSameFamily(dist.Categorical(torch.ones(3)), dist.Normal(torch.randn(3, 2), 1.0).to_event(1)))


def test_stale_gradients(tiny, same):
    a, b = tiny(), tiny()
    infer.Trace_ELBO().differentiable_loss(a.model, a.guide, X).backward()
    run(a)
    run(b)
    assert same(a, b)


def test_frozen_with_a_stale_gradient(tiny):
    a = tiny()
    infer.Trace_ELBO().differentiable_loss(a.model, a.guide, X).backward()
    a.posterior.requires_grad_(False)
    w = a.posterior.head.weight.clone()
    run(a)
    assert torch.equal(w, a.posterior.head.weight)


def test_fit_with_one_condition_row(tiny):
    run(tiny(condition_dim=2), X, C[:1])


def test_decode_wrong_rows(tiny):
    with pytest.raises(ValueError):
        tiny(condition_dim=2).decode(torch.zeros(5, 2), C[:3])


def test_decode_one_code(tiny):
    assert tiny(condition_dim=2).decode(torch.zeros(2), C[:1]).batch_shape == ()


def test_empty_sequential_is_an_identity():
    assert isinstance(VAE((3,), 2, encoder=nn.Sequential()).posterior.network, nn.Sequential)


@pytest.mark.parametrize(
    "loss", [infer.Trace_ELBO(num_particles=3, vectorize_particles=True), infer.TraceEnum_ELBO()], ids=["trace", "enum"]
)
def test_elbo_objects_with_unknown_plate_depth(tiny, loss):
    h = run(tiny(), elbo=loss)
    assert h["objective"].tolist() == pytest.approx(h["elbo"].tolist(), rel=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "loss",
    [
        infer.JitTrace_ELBO(ignore_jit_warnings=True),
        infer.ReweightedWakeSleep(num_particles=2),
        infer.TraceTailAdaptive_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1),
    ],
    ids=["jit", "rws", "tail"],
)
def test_elbo_objects_that_fit_cannot_report_are_refused(tiny, loss):
    with pytest.raises(ValueError, match=f"{type(loss).__name__} works with pyro.infer.SVI"):
        run(tiny(), elbo=loss)


def test_readonly_frame_without_warning(tiny):
    tiny().check(pd.DataFrame({"a": [1.0, 2], "b": [1.0, 2], "c": [1.0, 2]}))


def test_negative_strides(tiny):
    tiny().check(np.zeros((2, 3))[:, ::-1])


def test_mixed_frame(tiny):
    tiny().check(pd.DataFrame({"a": [True, False], "b": [1.0, 2], "c": [1, 2]}))


def test_transform_that_fills_missing_values(tiny):
    run(tiny(), torch.where(X > 1, torch.nan, X), transform=lambda b, g: b.nan_to_num())


def test_optimizer_lr_is_not_overridden_silently(tiny):
    with pytest.raises(ValueError, match="learning rate as lr=0.001 alone"):
        run(tiny(), optimizer="adam(lr=0.5)")


@pytest.mark.parametrize("setting", [dict(epochs=2.5), dict(batch_size=2.5)], ids=str)
def test_fractions(tiny, setting):
    with pytest.raises(ValueError):
        run(tiny(), **setting)


@pytest.mark.parametrize(
    "make",
    [
        lambda: likelihoods.Gaussian(scale=None),
        lambda: likelihoods.Gaussian(scale=math.inf),
        lambda: posteriors.Normal(floor=-1.0),
        lambda: posteriors.Normal(floor=0.0),
        lambda: priors.Normal(learned=True, floor=-1.0),
        lambda: VAE((3,), 2, prior=priors.Normal),
        lambda: VAE((3,), 2, likelihood="gaussian(scale=[1])"),
    ],
    ids=range(7),
)
def test_arguments_in_words(make):
    with pytest.raises(ValueError):
        make()


@pytest.mark.parametrize("scale", [np.float32(0.5), torch.tensor(0.5)], ids=str)
def test_scale_of_another_number_type_is_saved(tmp_path, scale):
    load(save(VAE((3,), 2, likelihood=likelihoods.Gaussian(scale=scale)), tmp_path))


def test_header_without_keys(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, str(tmp_path / "model.safetensors"), metadata={"pyrovae": "{}"})
    with pytest.raises(ValueError):
        load(tmp_path)


def test_torchs_own_validation_flag(tiny):
    v = tiny()
    torch.distributions.Distribution.set_default_validate_args(False)
    run(v)
    assert torch.distributions.Distribution._validate_args is False


def test_draws_in_a_callback_do_not_change_training(tiny, same):
    a, b = tiny(), tiny()
    run(a)
    run(b, callbacks=[lambda v, r: v.sample(2) is None])
    assert same(a, b)


def test_callback_data_are_checked(tiny):
    v = tiny(likelihood="bernoulli")

    def cb(vae, row):
        with pytest.raises(ValueError):
            vae.encode(torch.full((2, 3), 7.0))

    run(v, (X > 0).float(), callbacks=[cb])


def test_two_models_share_an_encoder():
    enc = nn.Linear(3, 4)
    a, b = (VAE((3,), 2, likelihood="gaussian", encoder=enc) for _ in range(2))

    def step(v):
        infer.SVI(v.model, v.guide, pyro.optim.Adam({"lr": 0.1}), infer.Trace_ELBO()).step(X)

    step(a)
    step(b)
    a.load_state_dict({k: w.clone() for k, w in a.state_dict().items()}, assign=True)
    before = a.posterior.network.weight.clone(), b.posterior.network.weight.clone()
    step(a)
    step(b)
    assert not torch.equal(before[0], a.posterior.network.weight)
    assert not torch.equal(before[1], b.posterior.network.weight)


def test_pickle_after_training(tiny):
    v = tiny()
    pickle.dumps(v)
    infer.SVI(v.model, v.guide, pyro.optim.Adam({"lr": 0.1}), infer.Trace_ELBO()).step(X)
    pickle.dumps(v)


def test_weights_of_the_last_good_step(tiny):
    """One step an epoch, exploding: what comes back should have a finite loss."""
    v = tiny()
    with pytest.MonkeyPatch.context() as p:
        p.setattr("pyro.infer.trace_elbo.warn_if_nan", lambda *a: None)
        with pytest.raises(FloatingPointError):
            run(v, epochs=3, lr=1e30, optimizer="sgd")
    with pyro.validation_enabled(False):
        assert math.isfinite(infer.Trace_ELBO().loss(v.model, v.guide, X))


def test_relaxed_bernoulli_loads_without_a_second_warning(tmp_path):
    with pytest.warns(UserWarning):
        v = VAE((3,), 2, likelihood="bernoulli(relaxed=True)")
    load(save(v, tmp_path))


class Free(Piece):
    numbers = 0

    def build(self, shape):
        self.loc = nn.Parameter(torch.zeros(shape))
        return super().build(shape)

    def forward(self, params=None):
        return dist.Normal(self.loc, 1.0).to_event(1)


def test_posterior_without_numbers(tiny):
    v = tiny(posterior=Free())
    assert v.encode(X).expand((10,)).batch_shape == (10,)
    run(v)


def test_icdf_at_zero():
    from pyrovae.distributions import ContinuousBernoulli

    assert (
        ContinuousBernoulli(torch.tensor(30.0, dtype=torch.float64)).icdf(torch.zeros((), dtype=torch.float64)) < 1e-12
    )


def test_numpy_counts(tiny):
    assert tiny(latent_dim=np.int64(2)).sample(np.int64(3)).shape == (3, 3)
