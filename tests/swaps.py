"""Every piece of the board in a small form, and which of them fit together."""

import itertools
import json

import pyro.distributions as dist
import torch

from pyrovae import VAE, likelihoods, posteriors, priors
from pyrovae.registry import parse

LATENT, EVENT, ROWS, CONDITION = 4, (4,), 6, 2

# Each with where z lives; a real posterior is carried to positive numbers, the unit interval and the simplex.
PRIORS = {
    "normal": "real",
    "normal(learned=True)": "real",
    "normal(learned=ard)": "real",
    "laplace": "real",
    "student_t": "real",
    "mixture(components=2)": "real",
    "mixture(components=2, covariance=full)": "real",
    "mixture(components=2, covariance=tied)": "real",
    "vamp(components=3)": "that of the posterior",
    "flow(transforms=2, hidden=[8])": "real",
    "conditional": "real",
    "gp": "real",
    "gp(inducing=3)": "real",
    "hyperspherical": "sphere",
    "power_spherical": "sphere",
    "logistic_normal": "simplex",
    "dirichlet": "simplex",
    "gamma": "positive",
    "uniform": "unit",
    "categorical(classes=2)": "pairs",
    "one_hot": "one hot",
    "categorical(classes=2, temperature=0.7)": "relaxed pairs",
    "one_hot(temperature=0.7)": "simplex",
    "any Pyro distribution": "real",
}
CONDITIONAL = {"conditional", "gp", "gp(inducing=3)"}
POSTERIORS = {
    "normal": "real",
    "full_rank": "real",
    "low_rank": "real",
    "student_t": "real",
    "laplace": "real",
    "mixture(components=2)": "real",
    "delta": "real",
    "planar(transforms=2)": "real",
    "sylvester(transforms=2)": "real",
    "householder(transforms=2)": "real",
    "iaf(transforms=2, hidden=[8])": "real",
    "maf(transforms=2, hidden=[8])": "real",
    "nsf(transforms=1, hidden=[8])": "real",
    "coupling(transforms=2, hidden=[8])": "real",
    "refined(steps=1)": "real",
    "power_spherical": "sphere",
    "dirichlet": "simplex",
    "gamma": "positive",
    "categorical(classes=2)": "pairs",
    "categorical": "one hot",
    "relaxed_categorical(classes=2)": "relaxed pairs",
    "relaxed_categorical": "simplex",
}
# A point has no density for a mixture of posteriors; a refined posterior asks the prior, which would ask it.
NOT_FOR_VAMP = {"delta", "refined(steps=1)"}
CARRIED = {"positive", "unit", "simplex"}
COLUMNS = [
    {"name": "a", "kind": "real"},
    {"name": "b", "kind": "positive"},
    {"name": "c", "kind": "count"},
    {"name": "d", "kind": "categorical", "categories": ["x", "y", "z"]},
]
LIKELIHOODS = {
    "bernoulli": "binary",
    "bernoulli(relaxed=True)": "unit",
    "continuous_bernoulli": "unit",
    "beta": "unit",
    "gaussian(scale=0.5)": "real",
    "gaussian": "real",
    "gaussian(scale=per_dimension)": "real",
    "gaussian(scale=network)": "real",
    "gaussian(scale=optimal)": "real",
    "laplace": "real",
    "student_t": "real",
    "log_normal": "positive",
    "gamma": "positive",
    "categorical(classes=3)": "classes",
    "ordinal(classes=3)": "classes",
    "discretised_logistic": "pixels",
    "discretised_logistic_mixture(components=2)": "pixels",
    "poisson": "counts",
    "negative_binomial": "counts",
    "zero_inflated_poisson": "counts",
    "zero_inflated_negative_binomial": "counts",
    "multinomial": "counts",
    "dirichlet_multinomial": "counts",
    json.dumps({"name": "tabular", "columns": COLUMNS}): "table",
}
PIECES = {"prior": PRIORS, "posterior": POSTERIORS, "likelihood": LIKELIHOODS}
FAMILIES = {"prior": priors.FAMILY, "posterior": posteriors.FAMILY, "likelihood": likelihoods.FAMILY}

_unit = torch.rand(ROWS, *EVENT, generator=torch.Generator().manual_seed(0)).clamp(0.01, 0.99)
DATA = {
    "binary": (_unit > 0.5).float(),
    "unit": _unit,
    "real": 4 * _unit - 2,
    "positive": 3 * _unit,
    "classes": (3 * _unit).floor(),
    "pixels": (255 * _unit).round() / 255,
    "counts": (20 * _unit**4).floor(),
}
KINDS = ("real", "positive", "counts", "classes")
DATA["table"] = torch.stack([DATA[kind][:, i] for i, kind in enumerate(KINDS)], 1)
DATA["table"][1, 0] = DATA["table"][2, 3] = torch.nan
CONDITIONS = torch.randn(ROWS, CONDITION, generator=torch.Generator().manual_seed(1))


def name(spec):
    """The name of a piece in its family."""
    return json.loads(spec)["name"] if spec.startswith("{") else parse(spec, "piece")[0]


def piece(spec):
    """What VAE takes for it."""
    if spec == "any Pyro distribution":
        return dist.MultivariateNormal(torch.zeros(LATENT), 0.5 * torch.eye(LATENT) + 0.5)
    return json.loads(spec) if spec.startswith("{") else spec


def fits(prior, posterior):
    """Whether a prior and a posterior can live on one support."""
    if prior.startswith("vamp"):
        return posterior not in NOT_FOR_VAMP
    if prior == "gp" and posterior.startswith("refined"):
        return False  # rows that depend on one another cannot be refined one by one
    there, here = PRIORS[prior], POSTERIORS[posterior]
    return there == here or (here == "real" and there in CARRIED)


def build(prior="normal", posterior="normal", likelihood="gaussian", *, dtype=torch.float32, seed=0, **arguments):
    """A small VAE of the three, initialised from its data; its arguments x and condition."""
    torch.manual_seed(seed)
    arguments = {"encoder": "mlp(hidden=[8])", "decoder": "mlp(hidden=[8])", **arguments}
    width = CONDITION if prior in CONDITIONAL else 0
    parts = {"prior": piece(prior), "posterior": piece(posterior), "likelihood": piece(likelihood)}
    vae = VAE(EVENT, LATENT, condition_dim=width, **parts, **arguments).to(dtype)
    x, condition = DATA[LIKELIHOODS[likelihood]].to(dtype), CONDITIONS.to(dtype) if width else None
    vae.initialize(x, condition)
    return vae, (x, condition)


PAIRS = [(prior, posterior) for prior, posterior in itertools.product(PRIORS, POSTERIORS) if fits(prior, posterior)]
# Pseudo-inputs move in the space of the data, in which levels and nominal classes do not.
STILL = ("categorical", "tabular", "discretised_logistic", "discretised_logistic_mixture")
NO_VAMP = {likelihood for likelihood in LIKELIHOODS if name(likelihood) in STILL}
TRIPLES = [
    (*pair, likelihood)
    for pair, likelihood in itertools.product(PAIRS, LIKELIHOODS)
    if not (pair[0].startswith("vamp") and likelihood in NO_VAMP)
]


def covering(triples, together=2):
    """A few of the triples in which every pair of pieces that stands in any of them stands: greedy, always the same.

    ``together=1``: every piece.
    """
    wanted = {group for triple in triples for group in _groups(triple, together)}
    chosen, left = [], list(triples)
    for gain in (3, 2, 1):
        for triple in left:
            new = wanted & _groups(triple, together)
            if len(new) >= gain:
                chosen.append(triple)
                wanted -= new
    return chosen


def _groups(triple, together):
    return set(itertools.combinations(enumerate(triple), together))
