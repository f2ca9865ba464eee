"""ELBO estimators by name, and the per-row terms of which every one of them is made.

Any ELBO object of `pyro.infer` works where a name does. Pyro's own have names where they are right; its RenyiELBO
(wrong under subsampling) and TraceTailAdaptive_ELBO (ranks wrongly) have none.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

from pyro.infer import (
    ELBO,
    JitTrace_ELBO,
    JitTraceEnum_ELBO,
    JitTraceGraph_ELBO,
    JitTraceMeanField_ELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    TraceTailAdaptive_ELBO,
)

from pyrovae.elbos.kl_weight import KLWeight
from pyrovae.elbos.terms import Split, Terms, terms
from pyrovae.registry import choose

__all__ = ["ABOUT", "FAMILY", "KLWeight", "Split", "Terms", "for_fit", "is_regularizable", "make", "terms"]

UNFIT = (
    JitTrace_ELBO,
    JitTraceEnum_ELBO,
    JitTraceGraph_ELBO,
    JitTraceMeanField_ELBO,
    ReweightedWakeSleep,
    TraceTailAdaptive_ELBO,
)

FAMILY: dict[str, Callable[..., ELBO]] = {
    "elbo": Trace_ELBO,
    "mean_field_elbo": TraceMeanField_ELBO,
    "graph_elbo": TraceGraph_ELBO,
    "enum_elbo": TraceEnum_ELBO,
}


class About(NamedTuple):
    """An estimator in a line, and where it is from."""

    summary: str
    reference: str


ABOUT = {
    "elbo": About(
        "ELBO by draws from the posterior; score-function gradients where there is no reparameterisation.",
        "https://arxiv.org/abs/1312.6114",
    ),
    "mean_field_elbo": About("ELBO with the KL in closed form where Pyro has one.", "https://arxiv.org/abs/1312.6114"),
    "graph_elbo": About(
        "ELBO whose score-function gradients use the model's dependencies and baselines.",
        "https://arxiv.org/abs/1506.05254",
    ),
    "enum_elbo": About("ELBO that sums discrete latents out exactly.", "https://arxiv.org/abs/1810.09538"),
}


def make(value: str | ELBO, num_particles: int = 1) -> ELBO:
    """An estimator from its name, with ``num_particles`` drawn at once; a Pyro ELBO object passes through.

    Raises:
        ValueError: for an unknown name, or an object together with ``num_particles``.
    """
    if isinstance(value, ELBO):
        if num_particles not in (1, value.num_particles):
            raise ValueError(f"num_particles: the ELBO object has {value.num_particles}, got {num_particles} besides")
        return value
    name = choose(value, FAMILY, "elbo")
    return FAMILY[name](num_particles=num_particles, vectorize_particles=num_particles > 1, max_plate_nesting=1)


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
    """Whether beta and KL warm-up mean something: for the plain ELBO they do, for other bounds they do not."""
    plain = isinstance(elbo, Trace_ELBO | TraceGraph_ELBO | TraceEnum_ELBO)
    return plain and not isinstance(elbo, TraceTailAdaptive_ELBO)
