"""The ELBO with a closed-form KL, where the order of the sites allows it."""

from __future__ import annotations

from typing import Any

from pyro.infer import TraceMeanField_ELBO
from pyro.poutine.trace_struct import Trace

from pyrovae.elbos.draws import Program


class MeanField(TraceMeanField_ELBO):
    r"""ELBO with the KL from prior to posterior in closed form where torch or Pyro know it, else by draws.

    With several latent sites that is right only where no site's prior depends on a site that its posterior comes
    before. Pyro warns of it, and only while its validation is on; here it is an error: model and guide must have their
    sites in the same order.

    Reference: Kingma and Welling, 2013, https://arxiv.org/abs/1312.6114
    """

    def _get_trace(self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401 - as Pyro has it
        model_trace, guide_trace = super()._get_trace(model, guide, args, kwargs)
        ours, theirs = _shared(model_trace, guide_trace), _shared(guide_trace, model_trace)
        if ours != theirs:
            raise ValueError(
                f"mean_field_elbo: expected latent sites in one order, got {', '.join(ours)} in the model and "
                f"{', '.join(theirs)} in the guide, where a closed-form KL may be wrong. Choose elbo."
            )
        return model_trace, guide_trace


def _shared(trace: Trace, other: Trace) -> list[str]:
    return [name for name, site in trace.nodes.items() if site["type"] == "sample" and name in other.nodes]
