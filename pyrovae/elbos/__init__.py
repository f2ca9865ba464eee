"""ELBO estimators by name, and the per-row terms of which every one of them is made.

Any ELBO object of `pyro.infer` works where a name does. Pyro's own have names where they are right. Its RenyiELBO
(wrong under any scale), ReweightedWakeSleep (one weight for a whole batch) and TraceTailAdaptive_ELBO (ranks wrongly)
have none: `Renyi`, `IWAE`, `ReweightedWakeSleep` and `TailAdaptive` here are right.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from pyro import infer
from pyro.infer import (
    ELBO,
    EnergyDistance,
    JitTrace_ELBO,
    JitTraceEnum_ELBO,
    JitTraceGraph_ELBO,
    JitTraceMeanField_ELBO,
    Trace_ELBO,
    Trace_MMD,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceTailAdaptive_ELBO,
    TraceTMC_ELBO,
)

from pyrovae import registry
from pyrovae.checks import count
from pyrovae.elbos.bound import Bound, Weights
from pyrovae.elbos.cubo import CUBO
from pyrovae.elbos.draws import Draws
from pyrovae.elbos.dreg import DReG
from pyrovae.elbos.gdreg import GDReG
from pyrovae.elbos.groups import CIWAE, MIWAE, PIWAE
from pyrovae.elbos.iwae import IWAE
from pyrovae.elbos.jackknife import Jackknife
from pyrovae.elbos.kl_weight import KLWeight
from pyrovae.elbos.mean_field import MeanField
from pyrovae.elbos.regularized import (
    DIP,
    Capacity,
    Contractive,
    FactorVAE,
    FreeBits,
    InfoVAE,
    Regularized,
    TotalCorrelation,
)
from pyrovae.elbos.renyi import Renyi
from pyrovae.elbos.rws import ReweightedWakeSleep
from pyrovae.elbos.stl import STL
from pyrovae.elbos.tail_adaptive import TailAdaptive
from pyrovae.elbos.terms import Split, Terms, terms
from pyrovae.elbos.tvo import TVO
from pyrovae.elbos.vimco import VIMCO, ScoreFunction

__all__ = [
    "ABOUT",
    "CIWAE",
    "CUBO",
    "DIP",
    "FAMILY",
    "IWAE",
    "MIWAE",
    "PIWAE",
    "STL",
    "TVO",
    "VIMCO",
    "Bound",
    "Capacity",
    "Contractive",
    "DReG",
    "Draws",
    "EnergyDistance",
    "FactorVAE",
    "FreeBits",
    "GDReG",
    "InfoVAE",
    "Jackknife",
    "KLWeight",
    "MeanField",
    "Regularized",
    "Renyi",
    "ReweightedWakeSleep",
    "ScoreFunction",
    "Split",
    "TailAdaptive",
    "Terms",
    "TotalCorrelation",
    "TraceEnum_ELBO",
    "TraceGraph_ELBO",
    "TraceTMC_ELBO",
    "Trace_ELBO",
    "Trace_MMD",
    "Weights",
    "for_fit",
    "is_regularizable",
    "make",
    "terms",
]

UNFIT = (
    JitTrace_ELBO,
    JitTraceEnum_ELBO,
    JitTraceGraph_ELBO,
    JitTraceMeanField_ELBO,
    infer.ReweightedWakeSleep,
    TraceTailAdaptive_ELBO,
)

FAMILY: dict[str, Callable[..., ELBO]] = {
    "elbo": Trace_ELBO,
    "mean_field_elbo": MeanField,
    "graph_elbo": TraceGraph_ELBO,
    "enum_elbo": TraceEnum_ELBO,
    "iwae": IWAE,
    "dreg": DReG,
    "gdreg": GDReG,
    "stl": STL,
    "renyi": Renyi,
    "miwae": MIWAE,
    "ciwae": CIWAE,
    "piwae": PIWAE,
    "tvo": TVO,
    "score_function": ScoreFunction,
    "vimco": VIMCO,
    "rws": ReweightedWakeSleep,
    "tail_adaptive": TailAdaptive,
    "jackknife": Jackknife,
    "cubo": CUBO,
    "free_bits": FreeBits,
    "capacity": Capacity,
    "total_correlation": TotalCorrelation,
    "factor_vae": FactorVAE,
    "dip": DIP,
    "info_vae": InfoVAE,
    "contractive": Contractive,
}


class About(NamedTuple):
    """An estimator of Pyro's in a line, and where it is from."""

    summary: str
    reference: str


ABOUT = {
    "elbo": About(
        "ELBO by draws from the posterior; score-function gradients where there is no reparameterisation.",
        "https://arxiv.org/abs/1312.6114",
    ),
    "mean_field_elbo": About("ELBO with the KL in closed form where there is one.", "https://arxiv.org/abs/1312.6114"),
    "graph_elbo": About(
        "ELBO whose score-function gradients use the model's dependencies and baselines.",
        "https://arxiv.org/abs/1506.05254",
    ),
    "enum_elbo": About("ELBO that sums discrete latents out exactly.", "https://arxiv.org/abs/1810.09538"),
}


def make(value: str | ELBO, num_particles: int = 1) -> ELBO:
    """An estimator from its name, such as ``"dreg"`` or ``"renyi(alpha=0.3)"``; a Pyro ELBO object passes through.

    Raises:
        ValueError: for an unknown name, too few draws for it, or an object together with ``num_particles``.
    """
    if isinstance(value, ELBO):
        if num_particles not in (1, value.num_particles):
            raise ValueError(f"num_particles: the ELBO object has {value.num_particles}, got {num_particles} besides")
        return value
    context = {"num_particles": num_particles, "vectorize_particles": num_particles > 1, "max_plate_nesting": 1}
    return registry.make(value, FAMILY, "elbo", **context)


def with_draws(value: str | Bound, num_particles: int) -> ELBO:
    """An estimator of so many draws from its name, or from an object of ours with any other number of them."""
    count(num_particles, "num_particles", 1)
    if isinstance(value, Bound):
        return dataclasses.replace(value, num_particles=num_particles)
    return make(value, num_particles)


def for_fit(elbo: ELBO) -> ELBO:
    """A copy of an estimator for one VAE, whose plate depth is known: the guess that Pyro would make runs the model.

    Raises:
        ValueError: for an estimator that reports no single finite bound, or that hides the draws from the history.
    """
    if isinstance(elbo, UNFIT):
        raise ValueError(
            f"elbo: {type(elbo).__name__} works with pyro.infer.SVI(vae.model, vae.guide, ...), but fit cannot report "
            "a history with it. Choose another."
        )
    elbo = copy.copy(elbo)
    elbo.max_plate_nesting = 1 + (elbo.vectorize_particles and elbo.num_particles > 1)
    return elbo


def is_regularizable(elbo: ELBO) -> bool:
    """Whether beta and KL warm-up mean something: for the plain ELBO, and as a weight on the penalty of a regularised
    one, they do; for other bounds they do not."""
    plain = isinstance(elbo, Trace_ELBO | TraceGraph_ELBO | TraceEnum_ELBO | Regularized)
    return plain and not isinstance(elbo, TraceTailAdaptive_ELBO)
