"""One contract for every prior x likelihood x posterior x network: it computes, trains, copies and is saved."""

import copy
import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO

import pyrovae
from pyrovae import VAE, elbos, likelihoods, networks, posteriors, priors
from pyrovae.registry import parse


def _mixture_of_normals():
    generator = torch.Generator().manual_seed(0)
    return dist.MixtureOfDiagNormals(torch.randn(3, 2, generator=generator), torch.ones(3, 2), torch.zeros(3))


# A name, or what makes a part that is given as an object.
PRIORS = {
    "normal": None,
    "normal(learned=True)": None,
    "Laplace": lambda: dist.Laplace(0.0, 1.0).expand([2]).to_event(1),
    "MultivariateNormal": lambda: dist.MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.5, 2.0]])),
    "mixture": _mixture_of_normals,
}
LIKELIHOODS = {
    "bernoulli": "binary",
    "bernoulli(relaxed=True)": "unit",
    "continuous_bernoulli": "unit",
    "gaussian(scale=0.5)": "real",
    "gaussian": "real",
    "gaussian(scale=per_dimension)": "real",
    "gaussian(scale=network)": "real",
}
POSTERIORS = ["normal"]
NETWORKS = {"mlp": "mlp(hidden=[6])", "conv": "conv(channels=[3, 3])"}
SHAPE = (2, 4, 3)
UNIT = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0))
DATA = {"binary": (UNIT > 0.5).float(), "unit": UNIT, "real": 4 * UNIT - 2}

pytestmark = pytest.mark.filterwarnings("ignore:a relaxed Bernoulli is no density")


def test_all_names_are_here():
    """A new member of a family joins the contract."""
    for family, tested in (
        (priors.FAMILY, PRIORS),
        (likelihoods.FAMILY, LIKELIHOODS),
        (posteriors.FAMILY, POSTERIORS),
        (networks.ENCODERS, NETWORKS),
        (networks.DECODERS, NETWORKS),
    ):
        assert set(family) <= {parse(name, "part")[0] for name in tested}


def build(prior, likelihood, posterior, network, dtype, **arguments):
    torch.manual_seed(0)
    vae = VAE(
        SHAPE,
        2,
        prior=PRIORS[prior]() if PRIORS[prior] else prior,
        likelihood=likelihood,
        posterior=posterior,
        encoder=NETWORKS[network],
        decoder=NETWORKS[network],
        **arguments,
    )
    return vae.to(dtype)


def loss(vae, *data, **arguments):
    torch.manual_seed(7)
    return Trace_ELBO(**arguments).loss(vae.model, vae.guide, *data)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("prior", "likelihood", "posterior", "network", "condition_dim"),
    [
        *itertools.product(PRIORS, LIKELIHOODS, POSTERIORS, NETWORKS, [0]),
        *itertools.product(["normal(learned=True)"], LIKELIHOODS, POSTERIORS, NETWORKS, [3]),
    ],
)
def test_contract(prior, likelihood, posterior, network, condition_dim, dtype, same, tmp_path):
    vae = build(prior, likelihood, posterior, network, dtype, condition_dim=condition_dim)
    condition = torch.randn(5, condition_dim) if condition_dim else None
    x = DATA[LIKELIHOODS[likelihood]]
    data = (x, condition)

    # It computes, in its own dtype: the loss is the sum of its terms, and no parameter is left without a gradient.
    assert {p.dtype for p in vae.parameters()} == {dtype}
    for site in pyro.poutine.trace(vae.model).get_trace(*data).nodes.values():
        if site["type"] == "sample" and site["name"] != "data":
            assert site["value"].dtype == dtype and site["fn"].log_prob(site["value"]).dtype == dtype
    value = loss(vae, *data)
    torch.manual_seed(7)
    terms = elbos.terms(vae.model, vae.guide, *data)
    assert value == pytest.approx(-terms.log_weights.sum().item(), rel=1e-5)
    Trace_ELBO().differentiable_loss(vae.model, vae.guide, *data).backward()
    for name, p in vae.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all(), name
        assert p.grad.abs().sum() > 0 or name.startswith(("likelihood.network", "posterior.network")), name

    # It samples within the support and reconstructs.
    for rows in (vae.sample(4, None if condition is None else condition[:4]), vae.reconstruct(*data, mean=False)):
        assert rows.shape[1:] == SHAPE and rows.dtype == dtype
        assert vae.likelihood.piece.support.check(rows).all() and torch.isfinite(rows).all()
    assert torch.isfinite(vae.reconstruct(*data)).all()
    assert loss(vae, *data, num_particles=3, vectorize_particles=True, max_plate_nesting=1) != value

    # Training moves it; a copy and a saved one are bit for bit the same.
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    before = {name: p.detach().clone() for name, p in vae.named_parameters()}
    for _ in range(2):
        svi.step(*data)
    assert any(not torch.equal(p, before[name]) for name, p in vae.named_parameters())
    twin = copy.deepcopy(vae)
    own = {"prior": PRIORS[prior]()} if PRIORS[prior] else {}
    loaded = pyrovae.load(pyrovae.save(vae, tmp_path), **own)
    for other in (twin, loaded):
        assert same(other, vae)
        assert loss(other, *data) == loss(vae, *data)
        assert not {id(p) for p in other.parameters()} & {id(p) for p in vae.parameters()}


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_change_of_dtype_on_the_way(likelihood):
    """float32 -> float64 keeps the numbers to float32's precision."""
    vae = build("mixture", likelihood, "normal", "mlp", torch.float32)
    x = DATA[LIKELIHOODS[likelihood]]
    z = torch.randn(5, 2)

    def joint(vae):
        return pyro.poutine.trace(pyro.poutine.condition(vae.model, {"z": z.to(vae.like)})).get_trace(x).log_prob_sum()

    single = joint(vae).item()
    assert joint(vae.double()).dtype == torch.float64
    assert joint(vae).item() == pytest.approx(single, rel=1e-5)
