"""One contract for every prior x posterior x likelihood: it computes, trains, samples, is saved, meets ArviZ and NUTS.

The ordinary suite runs triples of pieces in which every pair that fits together stands; ``pytest -m slow`` runs all.
"""

import copy
import itertools
import math

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, TraceEnum_ELBO, config_enumerate

import pyrovae
from pyrovae import elbos, networks
from pyrovae.checks import trusted, words
from pyrovae.distributions import base
from pyrovae.modes import evaluating
from pyrovae.registry import parse
from pyrovae.training.optimizers import Joint

from swaps import (  # isort: skip
    CONDITIONAL, CONDITIONS, DATA, EVENT, FAMILIES, LATENT, LIKELIHOODS, NO_VAMP, PAIRS, PIECES, POSTERIORS, PRIORS,
    ROWS, TRIPLES, build, covering, fits, name, piece,
)  # fmt: skip

DEAR = {"gp(inducing=3)", "refined(steps=1)"}
# Dear ones last, so that they meet each other once alone.
COVERING = covering(sorted(TRIPLES, key=lambda triple: len(DEAR & set(triple))))
DTYPES = [torch.float32, torch.float64]
# Every prior meets every posterior in both, and half of the pairs with a likelihood do; all do in float32.
IN_BOTH = set({triple[:2]: triple for triple in COVERING}.values())
NETWORKS = {
    "mlp": ("mlp(hidden=[6], norm=layer)",) * 2,
    "conv": ("conv(channels=[3, 3])",) * 2,
    "resnet": ("resnet(channels=[3, 3])",) * 2,
    "gated": ("gated(hidden=[6])",) * 2,
    "recurrent": ("recurrent(hidden=5)",) * 2,
}

pytestmark = pytest.mark.filterwarnings("ignore:a relaxed Bernoulli is no density")


def short(triple):
    return "-".join(part if part[0] != "{" else name(part) for part in triple)


def test_all_names_are_here():
    """A new member of a family joins the contract."""
    for kind, family in FAMILIES.items():
        tested = {name(spec) for spec in PIECES[kind] if spec != "any Pyro distribution"}
        assert set(family) == tested, kind
    assert set(networks.ENCODERS) | set(networks.DECODERS) == set(NETWORKS)


def test_every_pair_is_covered():
    def pairs(triples):
        return {pair for triple in triples for pair in itertools.combinations(enumerate(triple), 2)}

    assert pairs(COVERING) == pairs(TRIPLES)
    for i, kind in enumerate(PIECES):
        assert {triple[("prior", "posterior", "likelihood").index(kind)] for triple in COVERING} == set(PIECES[kind]), i
    assert {triple[:2] for triple in IN_BOTH} == {triple[:2] for triple in TRIPLES}
    assert {triple[2] for triple in IN_BOTH} == set(LIKELIHOODS)


@pytest.mark.parametrize("likelihood", sorted(NO_VAMP))
def test_vamp_refuses_data_in_whose_space_nothing_moves(likelihood):
    with pytest.raises(ValueError, match="vamp: expected a likelihood of real numbers"):
        build("vamp(components=3)", "normal", likelihood)


@pytest.mark.parametrize("prior", PRIORS)
def test_pieces_that_do_not_fit_are_refused_by_name(prior):
    others = [posterior for posterior in POSTERIORS if not fits(prior, posterior)]
    assert others
    for posterior in others:
        with pytest.raises(ValueError, match="lives on|vamp|refined") as caught:
            build(prior, posterior)
        assert "expected" in str(caught.value)


def guide_and_estimator(vae, posterior, particles=1):
    """What sums discrete latents out, or draws."""
    options = dict(num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=1)
    if POSTERIORS[posterior] in ("one hot", "pairs"):
        return config_enumerate(vae.guide), TraceEnum_ELBO(**options)
    return vae.guide, Trace_ELBO(**options)


def loss(vae, data, **arguments):
    torch.manual_seed(7)
    return Trace_ELBO(**arguments).loss(vae.model, vae.guide, *data)


def gradients_are_finite(vae, data, posterior):
    vae.zero_grad()
    guide, estimator = guide_and_estimator(vae, posterior)
    value = estimator.differentiable_loss(vae.model, guide, *data)
    value.backward()
    assert torch.isfinite(value)
    for key, p in vae.named_parameters():
        assert p.grad is None or torch.isfinite(p.grad).all(), key
    unused = [key for key, p in vae.named_parameters() if p.requires_grad and p.grad is None]
    assert not unused, unused


def train(vae, data, posterior, steps, lr=0.01, particles=1):
    guide, estimator = guide_and_estimator(vae, posterior, particles)
    svi = SVI(vae.model, guide, Joint(torch.optim.Adam(vae.parameters(), lr=lr, fused=True)), estimator)
    before = copy.deepcopy(vae.state_dict())
    losses = [svi.step(*data)]
    # The first step was checked, by Pyro and by us; to check all the others would only cost time.
    with pyro.validation_enabled(False), trusted():
        losses += [svi.step(*data) for _ in range(steps - 1)]
    assert all(math.isfinite(value) for value in losses)
    moved = [key for key, p in vae.named_parameters() if not torch.equal(p, before[key])]
    assert moved
    return losses


def check_computing(vae, data, dtype):
    """In its own dtype; particles at once are particles one by one; a draw has the density of any other value."""
    trace = poutine.trace(vae.model).get_trace(*data)
    for site in trace.nodes.values():
        if site["type"] == "sample" and site["name"] != "data":
            assert site["fn"].log_prob(site["value"]).dtype == dtype
            assert site["fn"].log_prob(site["value"]).shape == (ROWS,)
    # In evaluation mode, because the optimal scale of training is that of all particles together.
    with evaluating(vae), pyro.plate("particles", 3, dim=-2):
        guide = poutine.trace(vae.guide).get_trace(*data)
        q, z = guide.nodes["z"]["fn"], guide.nodes["z"]["value"]
        together = poutine.trace(poutine.condition(vae.model, {"z": z})).get_trace(*data)
    assert z.shape == (3, ROWS, LATENT) and z.dtype == dtype
    assert vae.prior.example(vae.condition_dim).support.check(z).all() and q.support.check(z).all()
    together.compute_log_prob()
    tolerance = {"rtol": 1e-4, "atol": 1e-3} if dtype == torch.float32 else {"rtol": 1e-7, "atol": 1e-7}
    for k in range(3):
        with evaluating(vae):
            single = poutine.trace(poutine.condition(vae.model, {"z": z[k]})).get_trace(*data)
        single.compute_log_prob()
        for key in ("z", "x"):
            ours = together.nodes[key]["log_prob"].expand(3, ROWS)[k]
            torch.testing.assert_close(ours, single.nodes[key]["log_prob"].expand(ROWS), **tolerance)
    if not vae.posterior.has("point"):
        kept = told_from_the_edge(z, vae.prior.example(vae.condition_dim).support)
        assert kept.float().mean() > 0.5
        torch.testing.assert_close(q.log_prob(z)[kept], q.log_prob(z.clone())[kept], **tolerance)


def told_from_the_edge(z, support):
    """Which z lie far enough inside an interval that their distance from its ends has digits left, 4 in float32."""
    lower, upper = (getattr(base(support), f"{side}_bound", None) for side in ("lower", "upper"))
    if lower is None or upper is None:
        return torch.ones(z.shape[:-1], dtype=torch.bool)
    return (torch.minimum(z - lower, upper - z) > 1e4 * torch.finfo(z.dtype).eps * (upper - lower)).all(-1)


def check_sampling(vae, data):
    """Draws and reconstructions lie in the support."""
    x, condition = data
    support = vae.likelihood.piece.support
    for rows in (vae.sample(ROWS, condition), vae.reconstruct(*data, mean=False)):
        assert rows.shape == x.shape and rows.dtype == x.dtype
        assert support.check(rows).all() and torch.isfinite(rows).all()
    assert torch.isfinite(vae.reconstruct(*data)).all() and vae.reconstruct(*data).shape == x.shape
    draws = Predictive(vae.model, num_samples=3)(None, condition, size=ROWS)
    assert draws["x"].shape == (3, *x.shape) and draws["z"].shape == (3, ROWS, LATENT)
    z = vae.guide(*data)
    conditioned = poutine.trace(poutine.condition(vae.model, {"z": z})).get_trace(None, condition, size=ROWS)
    assert torch.equal(conditioned.nodes["z"]["value"], z)


def check_saving(vae, data, folder, parts, same):
    vae.eval()
    own = {key: part for key, part in parts.items() if not isinstance(part, str | dict)}
    loaded = pyrovae.load(pyrovae.save(vae, folder), **own)
    for other in (copy.deepcopy(vae), loaded):
        assert same(other, vae)
        assert loss(other, data) == loss(vae, data)
        assert not {id(p) for p in other.parameters()} & {id(p) for p in vae.parameters()}


def check_export(vae, data):
    idata = pyrovae.to_inference_data(vae, *data, num_samples=2)
    assert np.isfinite(idata["posterior"]["z"].values).all()
    assert idata["posterior_predictive"]["x"].shape == (1, 2, ROWS, *EVENT)
    assert np.isfinite(idata["log_likelihood"]["x"].values).all()
    assert np.isfinite(idata["sample_stats"]["lp"].values).all()


@pytest.mark.parametrize("triple", COVERING, ids=short)
def test_contract(triple, same, tmp_path):
    prior, posterior, likelihood = triple
    trained = None
    # What breaks on the way breaks in float32, from which float64 goes on. Adam moves each parameter by about lr, so
    # 5 steps go as far as the 50 smaller ones of test_every_triple; with four particles each, they draw as 20 would.
    stages = list(zip(DTYPES, (5, 3), (0.1, 0.025), (4, 1), strict=True))
    for dtype, steps, lr, particles in stages if triple in IN_BOTH else stages[:1]:
        vae, data = build(prior, posterior, likelihood, dtype=dtype)
        if trained is not None:
            vae.load_state_dict(trained)
        assert {p.dtype for p in vae.parameters()} == {dtype}
        gradients_are_finite(vae, data, posterior)
        check_computing(vae, data, dtype)
        train(vae, data, posterior, steps, lr, particles)
        gradients_are_finite(vae, data, posterior)
        trained = copy.deepcopy(vae.state_dict())
    check_sampling(vae, data)
    if triple in IN_BOTH:
        # A file and an export have each part by itself, whatever the others are.
        check_export(vae, data)
        parts = dict(zip(("prior", "posterior", "likelihood"), map(piece, triple), strict=True))
        check_saving(vae, data, tmp_path, parts, same)


@pytest.mark.slow
@pytest.mark.parametrize("triple", TRIPLES, ids=short)
def test_every_triple(triple, record_property):
    """It computes, trains for 50 steps and samples, in float32; tests/results/triples.csv says which do."""
    record_property("triple", [part if part[0] != "{" else name(part) for part in triple])
    vae, data = build(*triple)
    gradients_are_finite(vae, data, triple[1])
    check_computing(vae, data, torch.float32)
    losses = train(vae, data, triple[1], 50)
    # No more than a note, because the draws differ from step to step.
    record_property("rose", sum(losses[-5:]) < sum(losses[:5]))
    gradients_are_finite(vae, data, triple[1])
    check_sampling(vae, data)


@pytest.mark.parametrize("pair", PAIRS, ids=short)
def test_evaluation(pair):
    """elbos.terms, evaluate and the loss agree for every prior x posterior."""
    vae, data = build(*pair, dtype=torch.float64)
    torch.manual_seed(7)
    terms = elbos.terms(vae.model, vae.guide, *data)
    assert loss(vae, data) == pytest.approx(-terms.log_weights.sum().item(), rel=1e-9)
    evaluation = pyrovae.evaluate(vae, *data, num_samples=30, progress=False)
    undefined = pair[1] == "delta" or pair[0] == "gp"
    assert (evaluation.undefined is not None) == undefined
    assert evaluation.rows["log_marginal"].isna().all() == undefined
    if not undefined:
        assert (evaluation.rows["log_marginal"] >= evaluation.rows["elbo"] - 1e-9).all()
    assert np.isfinite(evaluation.units["variance"]).all()


SMOOTH = [p for p, kind in PRIORS.items() if kind not in ("pairs", "one hot", "sphere") and "relaxed" not in kind]


@pytest.mark.parametrize(
    ("prior", "likelihood"), list(zip(SMOOTH, itertools.cycle(["bernoulli", "gaussian(scale=network)"]), strict=False))
)
def test_nuts_samples_z(prior, likelihood):
    """The model alone, without its guide, is one that NUTS takes, on whatever support z lives."""
    posterior = next(q for q in POSTERIORS if fits(prior, q))
    vae, data = build(prior, posterior, likelihood, dtype=torch.float64)
    vae.eval()
    mcmc = MCMC(NUTS(vae.model, max_tree_depth=4), num_samples=5, warmup_steps=10, disable_progbar=True)
    mcmc.run(*data)
    z = mcmc.get_samples()["z"]
    assert z.shape == (5, ROWS, LATENT) and vae.prior.example(vae.condition_dim).support.check(z).all()
    assert len(z.unique(dim=0)) > 1


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_posteriors_stay_finite_at_extreme_numbers(posterior):
    prior = next(p for p in PRIORS if fits(p, posterior))
    vae, data = build(prior, posterior)
    for value in (1e3, -1e3):
        with torch.no_grad():
            vae.posterior.head.bias.fill_(value)
        q = vae.encode(*data)
        z = q.rsample() if q.has_rsample else q.sample()
        assert torch.isfinite(z).all()
        assert torch.isfinite(q.log_prob(z)).all()


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_likelihoods_stay_finite_at_extreme_numbers(likelihood):
    """Numbers of +-1e3 from the network give a finite density, or at worst zero, and a gradient that is no nan."""
    vae, data = build(likelihood=likelihood)
    for value in (1e3, -1e3):
        with torch.no_grad():
            vae.likelihood.head.bias.fill_(value)
        vae.zero_grad()
        p = vae.decode(torch.zeros(ROWS, LATENT))
        log_prob = p.log_prob(data[0])
        assert torch.isfinite(log_prob).all()
        log_prob.sum().backward()
        assert torch.isfinite(vae.likelihood.head.bias.grad).all()
        assert torch.isfinite(p.sample()).all()


@pytest.mark.parametrize("likelihood", [spec for spec, kind in LIKELIHOODS.items() if kind == "counts"])
def test_counts_of_a_million(likelihood):
    vae, _ = build(likelihood=likelihood)
    x = torch.tensor([[1e6, 0.0, 3.0, 1e6], [0.0, 1e6, 1.0, 2.0]])
    vae.initialize(x)
    assert math.isfinite(loss(vae, (x,)))
    with pytest.raises(ValueError, match="row 0, column 1"):
        vae.check(torch.tensor([[1.0, -1.0, 0.0, 2.0]]))
    with pytest.raises(ValueError, match="row 0, column 0"):
        vae.check(torch.tensor([[0.5, 1.0, 0.0, 2.0]]))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_constant_column(likelihood):
    vae, (x, _) = build(likelihood=likelihood)
    x = x.clone()
    x[:, 1] = x[0, 1]
    x[:, 0] = x[0, 0]
    vae, _ = build(likelihood=likelihood)
    vae.initialize(x)
    train(vae, (x,), "normal", 50)
    gradients_are_finite(vae, (x,), "normal")


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_data_outside_the_support_are_refused_by_row_and_column(likelihood):
    vae, (x, _) = build(likelihood=likelihood)
    for value in (torch.inf, -torch.inf):
        wrong = x.clone()
        wrong[3, 2] = value
        with pytest.raises(ValueError, match="row 3, column 2"):
            vae.check(wrong)
    assert words(vae.likelihood.piece.support)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("condition_dim", [0, 3])
@pytest.mark.parametrize("likelihood", ["gaussian(scale=network)", "categorical(classes=3)", "bernoulli"])
@pytest.mark.parametrize("network", NETWORKS)
def test_networks(network, likelihood, condition_dim, dtype, same, tmp_path):
    shape = (7, 3) if network == "recurrent" else (2, 4, 3)
    x = torch.rand(5, *shape, generator=torch.Generator().manual_seed(0))
    x = {"bernoulli": (x > 0.5).float(), "categorical(classes=3)": (3 * x).floor()}.get(likelihood, x).to(dtype)
    data = (x, torch.randn(5, condition_dim, dtype=dtype) if condition_dim else None)
    torch.manual_seed(0)
    encoder, decoder = NETWORKS[network]
    vae = pyrovae.VAE(
        shape, 2, likelihood=likelihood, encoder=encoder, decoder=decoder, condition_dim=condition_dim
    ).to(dtype)
    gradients_are_finite(vae, data, "normal")
    train(vae, data, "normal", 3)
    with torch.no_grad(), pyro.plate("particles", 3, dim=-2):
        assert vae.model(*data).shape == x.shape
    check_saving(vae, data, tmp_path, {}, same)


def test_names_parse():
    assert all(parse(spec, "prior") for spec in PRIORS if spec != "any Pyro distribution")
    assert set(CONDITIONAL) <= set(PRIORS) and len(CONDITIONS) == ROWS == len(DATA["table"])
