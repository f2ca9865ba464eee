"""A posterior over the weights of a trained decoder."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from pyrovae.checks import count, trusted
from pyrovae.distributions import positive
from pyrovae.evaluation.importance import check_marginal
from pyrovae.modes import isolated
from pyrovae.registry import choose
from pyrovae.vae import VAE
from pyrovae.workflow.decoder_weights.laplace import laplace
from pyrovae.workflow.decoder_weights.posterior import DecoderPosterior
from pyrovae.workflow.decoder_weights.swag import swag
from pyrovae.workflow.decoder_weights.task import Fitted, Task
from pyrovae.workflow.decoder_weights.variational import low_rank, mean_field

HEAD = ("head.weight", "head.bias")
WEIGHTS = ("all", "head")


@dataclass(frozen=True)
class Method:
    """How to find a posterior, with its steps and learning rate where none are given.

    Attributes:
        fit: what does it.
        steps: that many.
        lr: None: it has none.
        rank: None: it has none.
        head: whether it knows only the head's weights.
    """

    fit: Callable[[Task], Fitted]
    steps: int
    lr: float | None = None
    rank: int | None = None
    head: bool = False


METHODS = {
    "mean_field": Method(mean_field, 2000, 3e-3),
    "low_rank": Method(low_rank, 2000, 3e-3, rank=10),
    "laplace": Method(laplace, 20, head=True),
    "swag": Method(swag, 2000, 1e-2, rank=20),
}


def decoder_posterior(
    vae: VAE,
    x: Any,  # noqa: ANN401 - whatever a user has
    condition: Any = None,  # noqa: ANN401
    *,
    method: str = "mean_field",
    weights: str | None = None,
    prior_scale: float = 1.0,
    steps: int | None = None,
    lr: float | None = None,
    batch_size: int = 128,
    num_particles: int = 1,
    rank: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> DecoderPosterior:
    r"""A posterior q(W) over decoder weights, so that what the model predicts is uncertain of them too.

    .. math:: W \sim N(0, s^2 I), \quad z_n \sim p(z), \quad x_n \sim p(x \mid z_n, W); \qquad
        q(W) \prod_n q(z_n \mid x_n)

    ==============  ====================================================================================================
    method          q(W)
    ==============  ====================================================================================================
    ``mean_field``  independent normals, by SVI from the trained weights, with log-densities of a batch times N/B: full
                    variational Bayes (Kingma & Welling 2013, appendix F, https://arxiv.org/abs/1312.6114)
    ``low_rank``    the same, of covariance diagonal plus ``rank``
    ``laplace``     of the head's weights: normal at the mode of the posterior, with the inverse of the negative Hessian
                    there, found by Newton's method (MacKay 1992, https://doi.org/10.1162/neco.1992.4.3.448); exact for
                    given z where the likelihood is Gaussian of fixed scale
    ``swag``        normal with the moments of the path of SGD from the trained weights (Maddox et al. 2019,
                    https://arxiv.org/abs/1902.02476). Its width is that of SGD's path, which grows with ``lr`` and
                    shrinks with ``batch_size``: no statement about the posterior unless they are chosen well
    ==============  ====================================================================================================

    The encoder stays as it was trained and is q(z | x): W sees the expected log-density under it, and where the encoder
    is off, so is q(W). Everything is computed in evaluation mode. Weights are the parameters of the decoder network and
    its head that take a gradient; a likelihood's own, such as a shared scale, stay as they are. The VAE is left as it
    was. Weights of which the data say nothing (those of dead units) keep the prior, so ``prior_scale`` matters.

    An average over draws can predict worse than the trained weights, where weights are many for the rows and the prior
    is wide: ``mean_field`` leaves most of them near the prior, and the normal of ``laplace`` is wide where the
    likelihood falls steeply on one side. Hold ``log_marginal`` of held-out rows against `pyrovae.log_marginal`.

    Args:
        vae: the model, with independent rows and a posterior with a density.
        x: rows ``(N, *event_shape)``, those that it was trained on.
        condition: ``(N, condition_dim)``, or one row for all, for a conditional VAE.
        method: see above.
        weights: "all" or "head", the last layer; None: all, and of ``laplace`` the head.
        prior_scale: s.
        steps: of the optimizer, 2000 unless told otherwise; of ``laplace``, steps of Newton's method at most, 20. Of
            ``swag`` about 5 K iterates are kept, evenly spaced.
        lr: of Adam, 3e-3 for means and ten times that for scales, both of which fall to a hundredth; of ``swag``, of
            SGD on the mean over rows in nats, 1e-2.
        batch_size: rows in a step; of ``laplace``, rows in memory at once.
        num_particles: draws of z for each row, at each step; of ``laplace``, once for all.
        rank: of ``low_rank``, 10, on which its time and memory depend; of ``swag``, its K, 20. At least 2.
        seed: of all draws; the user's random state and param store are left alone.
        progress: show a progress bar where it takes more than two seconds.

    Returns:
        `DecoderPosterior`: draws of the weights, of VAEs with them, of x, and log p(x) averaged over them.

    Raises:
        ValueError: for data that the model does not take, an unknown method, numbers below 1, a model with a label, a
            mechanism, a posterior that is a point or a prior that joins the rows, and weights that are not free or that
            another part has too; of ``laplace`` for weights other than the head's, a head too large (Hessians of more
            than 1 GiB), and a likelihood whose second derivative is 0.
        FloatingPointError: for an objective that is not finite.

    >>> import torch
    >>> vae = VAE((4,), 2, likelihood="gaussian", decoder="mlp(hidden=[8])")
    >>> posterior = decoder_posterior(vae, torch.randn(30, 4), method="laplace")
    >>> posterior
    DecoderPosterior('laplace', 36 weights of likelihood.head.weight, likelihood.head.bias)
    >>> posterior.predictive(num_rows=5, num_draws=10).dims
    ('draw', 'row', 'column')
    """
    if not isinstance(vae, VAE):
        raise ValueError(f"decoder_posterior: expected a VAE, got {type(vae).__name__}")
    chosen = METHODS[choose(method, METHODS, "method")]
    _check(vae)
    weights = choose(weights or ("head" if chosen.head else "all"), WEIGHTS, "weights")
    if chosen.head and weights != "head":
        raise ValueError(f"weights: expected 'head' or None for method={method!r}, got {weights!r}. Choose mean_field.")
    for name, value in (("lr", lr), ("rank", rank)):
        if getattr(chosen, name) is None and value is not None:
            raise ValueError(f"{name}: expected None for method={method!r}, which has none, got {value!r}")
    names = _names(vae, weights, method)
    x = vae.check(x)
    condition = vae.check_condition(condition, len(x))
    steps = count(chosen.steps if steps is None else steps, "steps", 2 if method == "swag" else 1)
    vae = copy.deepcopy(vae).eval().requires_grad_(False)
    with (
        isolated(count(seed, "seed", 0), validation=False),
        trusted(),
        tqdm(total=steps, disable=not progress, unit="step", desc=method, delay=2) as bar,
    ):
        task = Task(
            vae=vae,
            x=x,
            condition=condition,
            names=names,
            prior_scale=positive(prior_scale, "prior_scale: expected"),
            steps=steps,
            lr=0.0 if chosen.lr is None else positive(chosen.lr if lr is None else lr, "lr: expected"),
            batch_size=count(batch_size, "batch_size", 1),
            num_particles=count(num_particles, "num_particles", 1),
            rank=0 if chosen.rank is None else count(chosen.rank if rank is None else rank, "rank", 2),
            tick=bar.update,
        )
        fitted = chosen.fit(task)
    return DecoderPosterior(vae, method, tuple(f"likelihood.{name}" for name in names), *fitted)


def _check(vae: VAE) -> None:
    """Raise a ValueError for a model that is not one of independent rows with no other sites than z and x."""
    check_marginal(vae, "decoder_posterior")
    if vae.label is not None:
        raise ValueError(
            "decoder_posterior: expected no label, which is a site of its own. Train with the label as the condition."
        )
    if vae.mechanism is not None:
        raise ValueError("decoder_posterior: expected no mechanism, whose missing cells are a site of their own")


def _names(vae: VAE, weights: str, method: str) -> tuple[str, ...]:
    """Names of the weights, as parameters of ``vae.likelihood``."""
    decoder = vae.likelihood
    names = tuple(
        name
        for name, p in decoder.named_parameters()
        if p.requires_grad and not name.startswith("piece.") and (weights == "all" or name in HEAD)
    )
    if not names or (method == "laplace" and set(names) != set(HEAD)):
        raise ValueError(
            f"decoder_posterior: expected weights that take a gradient, got {', '.join(names) or 'none'}. Call "
            "vae.likelihood.requires_grad_() first."
        )
    others = {id(p) for name, part in vae.named_children() if name != "likelihood" for p in part.parameters()}
    if shared := [name for name in names if id(decoder.get_parameter(name)) in others]:
        raise ValueError(
            f"decoder_posterior: expected weights of the decoder alone, got {shared[0]}, which is another part's too"
        )
    return names
