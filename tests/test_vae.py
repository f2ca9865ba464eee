"""The VAE as a Pyro program: handlers, Predictive, NUTS, shapes, conditions, and a user's own parts."""

import copy
import math
import warnings

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import MCMC, NUTS, SVI, Importance, Predictive, Trace_ELBO
from pyro.ops.stats import effective_sample_size
from torch import nn
from torch.distributions import constraints

import pyrovae
from pyrovae import VAE, elbos, fit, likelihoods, posteriors, priors
from pyrovae.piece import Piece

X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
C = torch.randn(6, 2, generator=torch.Generator().manual_seed(1))
SEEN = torch.randn(6, 2, 4, 4, generator=torch.Generator().manual_seed(2))
IMAGES = (torch.rand(6, 1, 6, 5, generator=torch.Generator().manual_seed(0)) > 0.5).float()


NETWORKS = {"mlp": ("mlp(hidden=[8])", "mlp(hidden=[8])"), "conv": ("conv(channels=[3, 4])", "conv(channels=[4, 3])")}


@pytest.fixture(params=["mlp", "conv", "conditional mlp", "conditional conv", "image conv"])
def case(request):
    """(VAE, arguments of model and guide) for each kind of network, with and without a condition, or with images."""
    torch.manual_seed(0)
    encoder, decoder = NETWORKS[request.param.split()[-1]]
    conditional = request.param.startswith("conditional")
    if request.param.startswith("image"):
        return VAE((1, 6, 5), 2, encoder=encoder, decoder=decoder, condition_shape=(2, 4, 4)), (IMAGES, SEEN)
    vae = VAE((1, 6, 5), 2, encoder=encoder, decoder=decoder, condition_dim=2 * conditional)
    return vae, (IMAGES, C) if conditional else (IMAGES,)


@pytest.fixture(params=NETWORKS)
def conditional(request):
    torch.manual_seed(0)
    encoder, decoder = NETWORKS[request.param]
    return VAE((1, 6, 5), 2, encoder=encoder, decoder=decoder, condition_dim=2)


class Sees(nn.Module):
    """Joins rows with the middle of an image."""

    def forward(self, x, image):
        assert image.shape[1:] == (2, 4, 4)
        return torch.cat([x.flatten(1), image[:, :, 1:3, 1:3].flatten(1)], -1)


@pytest.mark.parametrize("prior", ["normal", "conditional(network='conv(channels=[2])')", "conditional(network=mlp)"])
@pytest.mark.parametrize("network", ["conv(channels=[3, 4])", "mlp(hidden=[8])", "own"])
def test_an_image_as_the_condition(prior, network, tmp_path):
    torch.manual_seed(0)
    encoder, decoder = (Sees(), Sees()) if network == "own" else (network, network)
    vae = VAE((1, 6, 5), 2, prior=prior, encoder=encoder, decoder=decoder, condition_shape=(2, 4, 4))
    own = {"encoder": encoder, "decoder": decoder} if network == "own" else {}
    pyrovae.fit(vae, IMAGES, SEEN, epochs=2, batch_size=3, progress=False)
    vae.eval()
    other = SEEN + torch.tensor([0.0, 0, 0, 0, 0, 1.0])[:, None, None, None]
    for a, b in (
        (vae.encode(IMAGES, SEEN).mean, vae.encode(IMAGES, other).mean),
        (vae.decode(torch.zeros(6, 2), SEEN).mean, vae.decode(torch.zeros(6, 2), other).mean),
    ):
        assert torch.equal(a[:5], b[:5]) and not torch.allclose(a[5], b[5])
    assert torch.equal(vae.encode(IMAGES, SEEN).mean, vae.encode(IMAGES, SEEN.flatten(1)).mean)
    same = [
        p.mean if prior == "normal" else p.mean[5]
        for p in (vae.prior(vae.check_condition(c), vae.check_condition(c)) for c in (SEEN, other))
    ]
    assert torch.allclose(*same) == (prior == "normal")
    loaded = pyrovae.load(pyrovae.save(vae, tmp_path), **own)
    assert torch.equal(loaded.encode(IMAGES, SEEN).mean, vae.encode(IMAGES, SEEN).mean)
    assert vae.sample(4, SEEN[:1]).shape == (4, 1, 6, 5)


def test_images_that_are_refused():
    vae = VAE((3,), 2, condition_shape=(2, 4, 4))
    with pytest.raises(ValueError, match=r"condition: expected shape \(N, 2, 4, 4\)"):
        vae.encode(torch.zeros(6, 3), torch.zeros(6, 4, 4, 2))
    with pytest.raises(ValueError, match="condition: expected a finite number, got nan at row 1"):
        vae.encode(torch.zeros(6, 3), torch.cat([SEEN[:1], SEEN[1:] * torch.nan]))
    for options in ({"label": 3}, {"condition_dim": 5}, {"condition_shape": (4, 4)}):
        with pytest.raises(ValueError, match="condition_shape: expected"):
            VAE((3,), 2, **{"condition_shape": (2, 4, 4), **options})


# The program


def test_sites_plate_and_shapes(case):
    vae, data = case
    model = poutine.trace(vae.model).get_trace(*data)
    guide = poutine.trace(vae.guide).get_trace(*data)
    assert [name for name in model.stochastic_nodes if name != "data"] == ["z"]
    assert model.observation_nodes == ["x"]
    assert [name for name in guide.stochastic_nodes if name != "data"] == ["z"]
    for trace in (model, guide):
        trace.compute_log_prob()
        (frame,) = trace.nodes["z"]["cond_indep_stack"]
        assert (frame.name, frame.dim, frame.size) == ("data", -1, 6)
        assert trace.nodes["z"]["value"].shape == (6, 2)
        assert trace.nodes["z"]["log_prob"].shape == (6,)
    assert model.nodes["x"]["log_prob"].shape == (6,)
    assert vae.model(*data) is model.nodes["x"]["value"] or torch.equal(vae.model(*data), IMAGES)
    assert vae.guide(*data).shape == (6, 2)


def test_the_guide_without_data_is_the_prior(case):
    vae, data = case
    trace = poutine.trace(vae.guide).get_trace(None, *data[1:], size=6)
    assert trace.nodes["z"]["value"].shape == (6, 2)
    assert torch.equal(trace.nodes["z"]["fn"].mean, torch.zeros(6, 2))


def test_rows_without_data(tiny):
    vae = tiny()
    assert vae.model().shape == (1, 3)
    assert vae.model(size=4).shape == (4, 3)
    conditional = tiny(condition_dim=2)
    assert conditional.model(None, C).shape == (6, 3)
    assert conditional.model(None, C[:1], size=4).shape == (4, 3)


def test_parameters_are_pyro_params(tiny):
    vae = tiny()
    trace = poutine.trace(vae.model).get_trace(X)
    values = [trace.nodes[name]["value"] for name in trace.param_nodes]
    assert {id(v.unconstrained()) for v in values} == {id(p) for p in vae.parameters()}


def test_svi_step_by_hand(case):
    """A step of bare SVI is the gradient step of -log p(x, z) + log q(z | x) at the same draw."""
    vae, data = case
    torch.manual_seed(5)
    z = vae.encode(*data).rsample()
    condition = data[1] if len(data) > 1 else None
    elbo = dist.Normal(0.0, 1.0).log_prob(z).sum() + vae.decode(z, condition).log_prob(IMAGES).sum()
    elbo = elbo - vae.encode(*data).log_prob(z).sum()
    expected = torch.autograd.grad(-elbo, list(vae.parameters()))
    before = [p.detach().clone() for p in vae.parameters()]
    torch.manual_seed(5)
    loss = SVI(vae.model, vae.guide, pyro.optim.SGD({"lr": 1.0}), Trace_ELBO()).step(*data)
    assert loss == pytest.approx(-elbo.item(), rel=1e-5)
    for p, b, g in zip(vae.parameters(), before, expected, strict=True):
        assert torch.allclose(b - p, g, rtol=1e-4, atol=1e-4)


# Handlers


def test_particles_at_once_are_particles_in_a_loop(case):
    """Each particle of a vectorized run has the log-density of its own draw run alone."""
    vae, data = case
    with pyro.plate("particles", 3, dim=-2):
        guide = poutine.trace(vae.guide).get_trace(*data)
        model = poutine.trace(poutine.replay(vae.model, guide)).get_trace(*data)
    model.compute_log_prob()
    z = guide.nodes["z"]["value"]
    assert z.shape == (3, 6, 2) and model.nodes["x"]["log_prob"].shape == (3, 6)
    for k in range(3):
        alone = poutine.trace(poutine.condition(vae.model, {"z": z[k]})).get_trace(*data)
        alone.compute_log_prob()
        assert torch.allclose(alone.nodes["x"]["log_prob"], model.nodes["x"]["log_prob"][k], rtol=1e-5)
    loss = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    assert math.isfinite(SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.1}), loss).step(*data))


def test_condition_on_x_is_x_as_an_argument(case):
    vae, data = case
    trace = poutine.trace(vae.model).get_trace(*data)
    z = trace.nodes["z"]["value"]
    conditioned = poutine.condition(vae.model, {"x": IMAGES, "z": z})
    other = poutine.trace(conditioned).get_trace(None, *data[1:], size=6)
    assert torch.equal(other.log_prob_sum(), trace.log_prob_sum())


def test_condition_on_z(case):
    vae, data = case
    z = torch.randn(6, 2)
    trace = poutine.trace(poutine.condition(vae.model, {"z": z})).get_trace(*data)
    expected = dist.Normal(0.0, 1.0).log_prob(z).sum() + vae.decode(z, *data[1:]).log_prob(IMAGES).sum()
    assert torch.allclose(trace.log_prob_sum(), expected, rtol=1e-6)


def test_mask_leaves_rows_out(linear):
    exact = linear()
    mask = torch.arange(20) % 3 == 0
    model, guide = poutine.mask(exact.vae.model, mask), poutine.mask(exact.vae.guide, mask)
    loss = Trace_ELBO().loss(model, guide, exact.x)
    assert loss == pytest.approx(-exact.log_prob[mask].sum().item(), rel=1e-12)


def test_scale_multiplies(linear):
    exact = linear()
    loss = Trace_ELBO().loss(poutine.scale(exact.vae.model, 3.0), poutine.scale(exact.vae.guide, 3.0), exact.x)
    assert loss == pytest.approx(-3 * exact.log_prob.sum().item(), rel=1e-12)


def test_uncondition_draws_x(case):
    vae, data = case
    trace = poutine.trace(poutine.uncondition(vae.model)).get_trace(*data)
    x = trace.nodes["x"]["value"]
    assert x.shape == IMAGES.shape and not torch.equal(x, IMAGES)


def test_do_and_block_and_seed(tiny):
    vae = tiny()
    assert torch.equal(poutine.seed(vae.model, 3)(size=4), poutine.seed(vae.model, 3)(size=4))
    trace = poutine.trace(poutine.block(vae.model, hide=["z"])).get_trace(X)
    assert "z" not in trace.nodes and "x" in trace.nodes
    intervened = poutine.do(vae.model, {"z": torch.zeros(6, 2)})
    assert torch.equal(poutine.trace(intervened).get_trace(X).nodes["x"]["fn"].mean, vae.decode(torch.zeros(6, 2)).mean)


# Predictive, importance sampling, NUTS


@pytest.mark.parametrize("parallel", [False, True])
def test_prior_predictive(case, parallel):
    vae, data = case
    draws = Predictive(vae.model, num_samples=5, parallel=parallel)(None, *data[1:], size=6)
    assert draws["z"].shape == (5, 6, 2) and draws["x"].shape == (5, 6, 1, 6, 5)
    assert draws["z"].std() > 0.5


@pytest.mark.parametrize("parallel", [False, True])
def test_posterior_predictive_through_the_guide(linear, parallel):
    """Draws of z are of the exact posterior, and draws of x of the posterior predictive, mean and variance."""
    exact = linear(n=3)
    model = poutine.uncondition(exact.vae.model)
    predictive = Predictive(
        model, guide=exact.vae.guide, num_samples=2000 if parallel else 20, parallel=parallel, return_sites=("z", "x")
    )
    draws = predictive(exact.x)
    assert draws["z"].shape[1:] == (3, 2) and draws["x"].shape[1:] == (3, 6)
    if not parallel:
        return
    error = exact.covariance.diagonal().sqrt() / math.sqrt(2000)
    assert ((draws["z"].mean(0) - exact.loc) / error).abs().max() < 4
    covariance = exact.truth.weight @ exact.covariance @ exact.truth.weight.T + 0.25 * torch.eye(6)
    mean = exact.loc @ exact.truth.weight.T + exact.truth.bias
    z = (draws["x"].mean(0) - mean) / (covariance.diagonal() / 2000).sqrt()
    assert z.abs().max() < 4
    ratio = draws["x"].var(0) / covariance.diagonal()
    assert ((ratio - 1) / math.sqrt(2 / 2000)).abs().max() < 4


def test_importance_sampling_with_the_guide(linear):
    exact = linear(n=4)
    run = Importance(exact.vae.model, exact.vae.guide, num_samples=5).run(exact.x)
    assert all(w.item() == pytest.approx(exact.log_prob.sum().item(), rel=1e-12) for w in run.log_weights)


def test_nuts_on_z_finds_the_exact_posterior(linear):
    """Posterior mean of each row and dimension within 4 standard errors, at the chain's own effective sample size."""
    exact = linear(n=2)
    torch.manual_seed(0)
    mcmc = MCMC(NUTS(exact.vae.model), num_samples=300, warmup_steps=60, disable_progbar=True)
    mcmc.run(exact.x)
    z = mcmc.get_samples()["z"]
    assert z.shape == (300, 2, 2)
    size = effective_sample_size(z[None], chain_dim=0, sample_dim=1)
    assert size.min() > 50
    error = (exact.covariance.diagonal() / size.clamp(max=300)).sqrt()
    assert ((z.mean(0) - exact.loc) / error).abs().max() < 4
    assert (z.var(0) / exact.covariance.diagonal() - 1).abs().max() < 0.5


# encode and decode


def test_decode_takes_any_leading_dimensions(case):
    vae, data = case
    condition = [c[:1] for c in data[1:]]
    z = torch.randn(4, 3, 2, 2)
    p = vae.decode(z, *condition)
    assert p.batch_shape == (4, 3, 2) and p.event_shape == (1, 6, 5)
    for index in ((0, 0, 0), (3, 1, 1)):
        alone = vae.decode(z[index][None], *condition)
        assert torch.allclose(alone.mean[0], p.mean[index], rtol=1e-5, atol=1e-6)


def test_decode_of_one_code(tiny):
    vae = tiny()
    z = torch.randn(2)
    assert vae.decode(z).batch_shape == ()
    assert torch.allclose(vae.decode(z).mean, vae.decode(z[None]).mean[0])


def test_decode_by_rows_of_the_condition(conditional):
    vae = conditional
    z = torch.randn(4, 6, 2)
    p = vae.decode(z, C)
    for row in range(6):
        alone = vae.decode(z[:, row], C[row : row + 1])
        assert torch.allclose(alone.mean, p.mean[:, row], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(vae.decode(z, C.flip(0)).mean, p.mean)


def test_encoder_folds_leading_dimensions(case):
    vae, data = case
    conditions = [vae.check_condition(c).expand(3, 6, -1) for c in data[1:]]
    q = vae.posterior(IMAGES.expand(3, *IMAGES.shape), *conditions)
    assert q.batch_shape == (3, 6) and q.event_shape == (2,)
    assert torch.allclose(q.mean[2], vae.encode(*data).mean, rtol=1e-5, atol=1e-6)


def test_the_condition_moves_encoder_and_decoder(conditional):
    assert not torch.allclose(conditional.encode(IMAGES, C).mean, conditional.encode(IMAGES, -C).mean)
    z = torch.randn(6, 2)
    assert not torch.allclose(conditional.decode(z, C).mean, conditional.decode(z, -C).mean)


@pytest.mark.parametrize("z", [torch.zeros(3), torch.zeros(5, 3), torch.zeros(()), [0.0]], ids=str)
def test_codes_of_another_length(tiny, z):
    with pytest.raises(ValueError, match=r"z: expected shape \(\.\.\., 2\), got"):
        tiny().decode(z)


def test_encode_and_decode_pass_gradients(tiny):
    vae = tiny()
    x = X.clone().requires_grad_()
    vae.decode(vae.encode(x).rsample()).log_prob(X).sum().backward()
    assert x.grad.abs().sum() > 0 and all(p.grad is not None for p in vae.parameters())


# sample, reconstruct, interpolate


def test_sample(case):
    vae, data = case
    n = 6
    x = vae.sample(n, *data[1:])
    assert x.shape == (n, 1, 6, 5) and not x.requires_grad
    assert set(x.unique().tolist()) <= {0.0, 1.0}
    means = vae.sample(n, *data[1:], mean=True)
    assert means.shape == x.shape and ((means > 0) & (means < 1)).all()
    assert (means[0] != means[1]).any(), "one draw for all rows"


def test_sample_and_reconstruct_go_through_the_condition(conditional):
    torch.manual_seed(3)
    z = torch.randn(6, 2)
    torch.manual_seed(3)
    assert torch.equal(conditional.sample(6, C, mean=True), conditional.decode(z, C).mean)
    torch.manual_seed(3)
    assert not torch.allclose(conditional.sample(6, -C, mean=True), conditional.decode(z, C).mean)
    expected = conditional.decode(conditional.encode(IMAGES, C).mean, C).mean
    assert torch.equal(conditional.reconstruct(IMAGES, C), expected)


def test_samples_are_of_the_model(linear):
    """Mean and covariance of 20,000 rows against b and W W' + s^2 I."""
    exact = linear()
    x = exact.vae.sample(20_000)
    weight = exact.truth.weight
    covariance = weight @ weight.T + 0.25 * torch.eye(6)
    z = (x.mean(0) - exact.truth.bias) / (covariance.diagonal() / 20_000).sqrt()
    assert z.abs().max() < 4
    diagonal = covariance.diagonal()
    error = ((diagonal[:, None] * diagonal + covariance**2) / 20_000).sqrt()
    assert ((torch.cov(x.T) - covariance) / error).abs().max() < 4
    means = exact.vae.sample(20_000, mean=True)
    error = ((diagonal[:, None] * diagonal + covariance**2) / 20_000).sqrt()
    assert ((torch.cov(means.T) - weight @ weight.T) / error).abs().max() < 4


@pytest.mark.parametrize("n", [0, -1, 2.0, True, "3"])
def test_sample_counts_that_are_none(tiny, n):
    with pytest.raises(ValueError, match="n: expected a whole number of at least 1"):
        tiny().sample(n)


def test_reconstruct(linear):
    exact = linear()
    expected = exact.loc @ exact.truth.weight.T + exact.truth.bias
    assert torch.allclose(exact.vae.reconstruct(exact.x), expected, rtol=1e-10, atol=1e-12)
    draws = torch.stack([exact.vae.reconstruct(exact.x, mean=False) for _ in range(400)])
    variance = (exact.truth.weight @ exact.covariance @ exact.truth.weight.T).diagonal() + 0.25
    assert ((draws.mean(0) - expected) / (variance / 400).sqrt()).abs().max() < 4.5
    assert ((draws.var(0).mean(0) / variance - 1) / math.sqrt(2 / 8000)).abs().max() < 4


def test_reconstruct_shapes(case):
    vae, data = case
    assert vae.reconstruct(*data).shape == IMAGES.shape
    assert set(vae.reconstruct(*data, mean=False).unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("steps", [2, 7])
def test_interpolation_ends_at_the_reconstructions(case, steps):
    vae, data = case
    condition = data[1] if len(data) > 1 else None
    a, b = IMAGES, IMAGES.flip(0)
    path = vae.interpolate(a, b, steps, condition)
    assert path.shape == (steps, 6, 1, 6, 5)
    assert torch.allclose(path[0], vae.reconstruct(a, condition), atol=1e-6)
    assert torch.allclose(path[-1], vae.reconstruct(b, condition), atol=1e-6)


def test_interpolation_is_straight_in_z(linear):
    exact = linear()
    path = exact.vae.interpolate(exact.x[:3], exact.x[3:6], 5)
    differences = path.diff(dim=0)
    assert torch.allclose(differences, differences[:1].expand_as(differences), atol=1e-10)
    assert differences.abs().min() > 1e-4


def test_interpolation_between_different_numbers_of_rows(tiny):
    with pytest.raises(ValueError, match="expected as many rows in a as in b, got 2 and 3"):
        tiny().interpolate(X[:2], X[:3])
    with pytest.raises(ValueError, match="steps: expected a whole number of at least 2"):
        tiny().interpolate(X, X, 1)


@pytest.mark.parametrize("call", ["sample", "reconstruct", "interpolate"])
def test_convenience_runs_in_evaluation_mode_and_gives_each_mode_back(tiny, call):
    encoder = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    decoder = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    vae = tiny(encoder=encoder, decoder=decoder)
    vae.train()
    encoder[2].eval()
    modes = [m.training for m in vae.modules()]
    before = {key: value.clone() for key, value in vae.state_dict().items()}
    calls = {
        "sample": lambda: vae.sample(4, mean=True),
        "reconstruct": lambda: vae.reconstruct(X),
        "interpolate": lambda: vae.interpolate(X, X.flip(0)),
    }
    torch.manual_seed(0)
    first = calls[call]()
    torch.manual_seed(0)
    assert torch.equal(calls[call](), first), "dropout is on"
    assert [m.training for m in vae.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in vae.state_dict().items())
    assert not first.requires_grad


# Networks of the user's


def test_building_looks_at_a_network_without_moving_it():
    norm = nn.BatchNorm1d(4)
    network = nn.Sequential(nn.Linear(3, 4), norm, nn.Dropout(0.5))
    norm.eval()
    vae = VAE((3,), 2, likelihood="gaussian", encoder=network)
    assert vae.posterior.network is network
    assert norm.num_batches_tracked == 0 and torch.equal(norm.running_var, torch.ones(4))
    assert [m.training for m in network] == [True, False, True]


class Skip(nn.Module):
    """A user's encoder from x and condition to features of another shape than a row."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 6)

    def forward(self, x, condition):
        return self.layer(torch.cat([x, condition], -1)).reshape(-1, 2, 3)


def test_a_users_networks():
    torch.manual_seed(0)
    vae = VAE((3,), 2, likelihood="gaussian", encoder=Skip(), decoder=nn.Bilinear(2, 2, 7), condition_dim=2)
    assert vae.posterior.head.in_features == 6 and vae.likelihood.head.in_features == 7
    history = fit(vae, X, C, epochs=100, lr=0.05, num_particles=8, progress=False)
    assert history["elbo"].tail(5).mean() > history["elbo"].head(5).mean()
    assert vae.reconstruct(X, C).shape == (6, 3)


def test_a_decoder_of_feature_maps_gets_a_head_for_each_pixel():
    class Maps(nn.Module):
        def forward(self, z):
            return z[:, :, None, None].expand(-1, -1, 2, 3)

    vae = VAE((4, 2, 3), 5, likelihood="gaussian(scale=network)", decoder=Maps())
    head = vae.likelihood.head
    assert (head.in_features, head.out_features) == (5, 8)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.arange(8.0))
    p = vae.decode(torch.randn(7, 5)).base_dist
    assert torch.equal(p.loc, torch.arange(4.0)[:, None, None].expand(7, 4, 2, 3))
    scale = 1e-3 + nn.functional.softplus(torch.arange(4.0, 8.0))
    assert torch.allclose(p.scale, scale[:, None, None].expand(7, 4, 2, 3))


@pytest.mark.parametrize(
    ("encoder", "text"),
    [
        (nn.Linear(4, 2), r"encoder: expected a network that takes \(2, 3\), got RuntimeError"),
        (nn.LSTM(3, 2), r"encoder: expected features of shape \(2, F\) from an input of \(2, 3\), got tuple"),
        (nn.Flatten(0), r"encoder: expected features of shape \(2, F\) from an input of \(2, 3\), got \(6,\)"),
        (nn.Unflatten(0, (1, 2)), r"encoder: expected features of shape \(2, F\).*got \(1, 2, 3\)"),
        ("resnet50", r"unknown encoder 'resnet50': expected one of"),
    ],
    ids=str,
)
def test_networks_that_do_not_fit(encoder, text):
    with pytest.raises(ValueError, match=text):
        VAE((3,), 2, encoder=encoder)


def test_a_network_without_a_place_for_the_condition():
    with pytest.raises(
        ValueError, match=r"decoder: expected a network that takes \(2, 2\) and \(2, 4\), got TypeError"
    ):
        VAE((3,), 2, decoder=nn.Linear(2, 3), condition_dim=4)


# Pieces of the user's: one prior, one likelihood, one posterior


class Correlated(Piece):
    """A trained prior with a full covariance."""

    numbers = 0

    def build(self, event_shape):
        self.loc = nn.Parameter(torch.zeros(event_shape))
        self.tril = nn.Parameter(torch.eye(event_shape[0]))
        return super().build(event_shape)

    def forward(self, params=None):
        diagonal = nn.functional.softplus(self.tril.diagonal()).diag()
        return dist.MultivariateNormal(self.loc, scale_tril=self.tril.tril(-1) + diagonal)


class Laplace(Piece):
    numbers = 2

    def forward(self, params):
        loc, scale = self.split(params)
        return dist.Laplace(loc, nn.functional.softplus(scale) + 1e-3).to_event(len(self.event_shape))


class PlainPoisson(nn.Module):
    """The protocol without the base class, as in the documentation: support, build and forward."""

    support = constraints.nonnegative_integer

    def build(self, event_shape):
        return math.prod(event_shape)

    def forward(self, params):
        return dist.Poisson(nn.functional.softplus(params) + 1e-6).to_event(1)


class FullRank(Piece):
    """A posterior with correlations: its numbers are no multiple of the event's size."""

    def build(self, event_shape):
        super().build(event_shape)
        self.size = event_shape[0]
        return self.size + self.size * self.size

    def forward(self, params):
        loc, tril = params[..., : self.size], params[..., self.size :].unflatten(-1, (self.size, self.size))
        diagonal = torch.diag_embed(nn.functional.softplus(tril.diagonal(dim1=-2, dim2=-1)) + 1e-3)
        return dist.MultivariateNormal(loc, scale_tril=tril.tril(-1) + diagonal)


OWN = {
    "prior": (dict(prior=Correlated(), likelihood="gaussian"), X),
    "likelihood": (dict(likelihood=Laplace()), X),
    "likelihood without the base class": (dict(likelihood=PlainPoisson()), torch.tensor([[0.0, 3, 1], [2, 5, 0]])),
    "posterior": (dict(posterior=FullRank(), likelihood="gaussian"), X),
}


@pytest.mark.parametrize("which", OWN)
def test_a_users_piece_is_trained_and_used(tiny, which):
    parts, x = OWN[which]
    vae = tiny(**copy.deepcopy(parts))
    before = {name: p.detach().clone() for name, p in vae.named_parameters()}
    history = fit(vae, x, epochs=60, lr=0.05, num_particles=4, progress=False)
    assert history["elbo"].tail(5).mean() > history["elbo"].head(5).mean()
    assert all(not torch.equal(p, before[name]) for name, p in vae.named_parameters())
    assert vae.sample(4).shape == (4, 3) and vae.reconstruct(x).shape == x.shape
    q = vae.encode(x)
    assert q.batch_shape == (len(x),) and q.event_shape == (2,)


def test_a_users_support_is_checked_in_words(tiny):
    vae = tiny(likelihood=PlainPoisson())
    with pytest.raises(ValueError, match=r"expected a whole number 0, 1, 2, ... \(PlainPoisson\), got 0.5 at row 1"):
        vae.model(torch.tensor([[0.0, 1, 2], [0.5, 1, 2]]))


def test_a_full_rank_posterior_matches_where_the_mean_field_cannot(linear):
    """With columns of W that are not orthogonal the posterior is correlated; the exact one makes every weight log p."""
    truth = pyrovae.datasets.LinearGaussian.random(5, 2, orthogonal=False, seed=2)
    x = truth.sample(10, seed=1)
    mean, covariance = truth.posterior(x)
    assert covariance[0, 1].abs() > 0.01

    class Exact(nn.Module):
        def forward(self, rows):
            return truth.posterior(rows)[0]

    vae = VAE(
        (5,),
        2,
        likelihood=likelihoods.Gaussian(scale=truth.scale.item()),
        posterior=FullRank(),
        encoder=nn.Identity(),
        decoder=nn.Identity(),
    ).double()
    vae.posterior.network, vae.posterior.head = Exact(), nn.Linear(2, 6).double()
    tril = torch.linalg.cholesky(covariance)
    raw = tril.tril(-1) + torch.log(torch.expm1(tril.diagonal() - 1e-3)).diag()
    with torch.no_grad():
        vae.likelihood.head.weight.copy_(truth.weight)
        vae.likelihood.head.bias.copy_(truth.bias)
        vae.posterior.head.weight.copy_(torch.cat([torch.eye(2), torch.zeros(4, 2)]))
        vae.posterior.head.bias.copy_(torch.cat([torch.zeros(2), raw.flatten()]))
    weights = elbos.terms(vae.model, vae.guide, x, num_particles=5).log_weights
    assert ((weights - truth.log_prob(x)) / truth.log_prob(x)).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (dict(likelihood=nn.Linear(2, 2)), "decoder: expected a module with support, build and forward.*'build'"),
        (dict(posterior=3), "encoder: expected a module with support, build and forward.*int without 'build'"),
        (dict(prior=Laplace()), "prior: Laplace needs 4 numbers from a network, and has none"),
        (dict(likelihood="gausian"), "unknown likelihood 'gausian'.*Did you mean 'gaussian'"),
        (dict(posterior="normall"), "unknown posterior 'normall'.*Did you mean 'normal'"),
        (dict(prior="vamppire"), "unknown prior 'vamppire': expected one of"),
        (dict(likelihood="gaussian(sigma=3)"), "likelihood 'gaussian' has no argument 'sigma': expected scale, floor"),
    ],
    ids=str,
)
def test_parts_that_are_none(parts, text):
    with pytest.raises(ValueError, match=text):
        VAE((3,), 2, **parts)


def test_pieces_as_objects_and_as_text_are_the_same_model(same):
    def build(**parts):
        torch.manual_seed(0)
        return VAE((3,), 2, **parts)

    objects = build(
        prior=priors.Normal(learned=True),
        likelihood=likelihoods.Gaussian(scale="network"),
        posterior=posteriors.Normal(),
    )
    text = build(prior="normal(learned=True)", likelihood="gaussian(scale=network)", posterior="normal")
    assert same(objects, text)
    assert not same(objects, build(likelihood="gaussian"))


def test_no_warnings_from_training_a_plain_vae(tiny):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vae = tiny()
        SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(X)


def test_default_dtype_float64_gives_a_float64_model():
    torch.set_default_dtype(torch.float64)
    vae = VAE((3,), 2, prior="normal(learned=True)", likelihood="gaussian")
    assert {p.dtype for p in vae.parameters()} == {torch.float64}
    assert math.isfinite(Trace_ELBO().loss(vae.model, vae.guide, X))
