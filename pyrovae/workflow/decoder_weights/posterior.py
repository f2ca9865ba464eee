"""A posterior over decoder weights, and what it predicts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from pyrovae import hierarchy
from pyrovae.checks import count, trusted
from pyrovae.distributions import expectation
from pyrovae.evaluation.importance import checked, draws_at_once
from pyrovae.evaluation.log_marginal import log_marginal
from pyrovae.evaluation.weights import LogMarginal, log_mean_weight
from pyrovae.inference_data import event_dims
from pyrovae.modes import evaluating, isolated
from pyrovae.training.batches import bounds
from pyrovae.vae import VAE
from pyrovae.workflow.decoder_weights.task import Weights, unflat

if TYPE_CHECKING:
    import xarray

Latents = Callable[[VAE, slice, Tensor | None], Tensor]
"""From a VAE, some rows and their condition to the z of each, ``(B, D)``."""


class DecoderPosterior:
    r"""A distribution q(W) over decoder weights, what `pyrovae.decoder_posterior` returns.

    Its predictions average over W: with S draws,

    .. math:: p(\cdot) \approx \frac1S \sum_s p(\cdot \mid W_s), \qquad W_s \sim q(W),

    of which each is a whole decoder: all rows of a draw have the same weights. Every method takes a seed, gives the
    same weights for it, and leaves the random state of the user alone.

    Attributes:
        vae: a copy of the VAE with its trained weights, frozen and in evaluation mode.
        method: how it was found.
        names: of the weights that have a posterior, as in ``vae.named_parameters()``.
        weights: q(W), of all of them in one vector ``(P,)`` in this order, with ``mean``, ``variance`` and ``sample``.
        history: the objective at each step, in nats per row, higher is better: of variational Bayes an estimate of the
            ELBO with the KL of the weights, of the others the log-posterior of the weights.

    >>> from pyrovae import decoder_posterior
    >>> vae = VAE((4,), 2, likelihood="gaussian", decoder="mlp(hidden=[8])")
    >>> x = torch.randn(30, 4)
    >>> posterior = decoder_posterior(vae, x, method="mean_field", weights="head", steps=20)
    >>> {name: tuple(draws.shape) for name, draws in posterior.sample(5).items()}
    {'likelihood.head.weight': (5, 4, 8), 'likelihood.head.bias': (5, 4)}
    >>> dict(posterior.reconstruct(x, num_draws=5).sizes)
    {'draw': 5, 'row': 30, 'column': 4}
    >>> posterior.log_marginal(x, num_draws=5, num_samples=20).value.shape
    torch.Size([30])
    """

    def __init__(self, vae: VAE, method: str, names: tuple[str, ...], weights: Weights, history: list[float]) -> None:
        self.vae, self.method, self.names, self.weights, self.history = vae, method, names, weights, history

    def __repr__(self) -> str:
        return f"DecoderPosterior({self.method!r}, {len(self.weights.mean):,} weights of {', '.join(self.names)})"

    def sample(self, num_draws: int = 100, *, seed: int = 0) -> dict[str, Tensor]:
        """Draws of the weights, by their names: ``(num_draws, *shape)`` each.

        Raises ValueError for a number of draws below 1.
        """
        with isolated(count(seed, "seed", 0), validation=False):
            return unflat(self.vae, self.names, self._sample(num_draws))

    def draw(self, seed: int = 0) -> VAE:
        """A VAE with weights drawn from the posterior, frozen and in evaluation mode, for whatever takes a VAE."""
        with isolated(count(seed, "seed", 0), validation=False):
            return next(self._vaes(self._sample(1)))

    def predictive(
        self,
        num_rows: int | None = None,
        condition: Any = None,  # noqa: ANN401 - whatever a user has
        *,
        num_draws: int = 100,
        mean: bool = False,
        seed: int = 0,
    ) -> xarray.DataArray:
        r"""Data sets that the model draws: :math:`W_s \sim q(W), z_{sn} \sim p(z), x_{sn} \sim p(x \mid z_{sn}, W_s)`.

        Args:
            num_rows: rows of each; None: as many as the condition has, or one.
            condition: ``(num_rows, condition_dim)``, or one row for all, for a conditional VAE.
            num_draws: S.
            mean: E[x | z, W] in the place of a draw of x.
            seed: of the draws.

        Returns:
            x with dims draw, row and those of an event, as in `pyrovae.to_inference_data`.

        Raises:
            ValueError: for numbers below 1, and a condition that does not fit.
        """
        if num_rows is None:
            num_rows = 1 if condition is None else len(condition)
        num_rows = count(num_rows, "num_rows", 1)
        condition = self.vae.check_condition(condition, num_rows)

        def latents(vae: VAE, rows: slice, c: Tensor | None) -> Tensor:
            return hierarchy.sample(vae, rows.stop - rows.start, c)

        return self._predict(latents, num_rows, condition, num_draws, mean, seed)

    def reconstruct(
        self,
        x: Any,  # noqa: ANN401
        condition: Any = None,  # noqa: ANN401
        *,
        num_draws: int = 100,
        mean: bool = False,
        seed: int = 0,
    ) -> xarray.DataArray:
        r"""The posterior predictive of rows x: :math:`W_s \sim q(W), z_{sn} \sim q(z \mid x_n),
        x^\text{rep}_{sn} \sim p(x \mid z_{sn}, W_s)`.

        Args:
            x: rows ``(N, *event_shape)``.
            condition: ``(N, condition_dim)``, or one row for all, for a conditional VAE.
            num_draws: S.
            mean: E[x | z, W] in the place of a draw of x.
            seed: of the draws.

        Returns:
            x with dims draw, row and those of an event.

        Raises:
            ValueError: for data that the model does not take, and a number of draws below 1.
        """
        x = self.vae.check(x)
        condition = self.vae.check_condition(condition, len(x))

        def latents(vae: VAE, rows: slice, c: Tensor | None) -> Tensor:
            return hierarchy.draw_posterior(vae, x[rows], c, vae.sites)

        return self._predict(latents, len(x), condition, num_draws, mean, seed)

    def log_marginal(
        self,
        x: Any,  # noqa: ANN401
        condition: Any = None,  # noqa: ANN401
        *,
        num_draws: int = 20,
        num_samples: int = 1000,
        seed: int = 0,
        chunk: int | None = None,
        progress: bool = True,
    ) -> LogMarginal:
        r"""The pointwise log predictive density of each row,

        .. math:: \log \frac1S \sum_{s=1}^S p(x_n \mid W_s), \qquad W_s \sim q(W),

        each :math:`p(x_n \mid W_s)` estimated by `pyrovae.log_marginal` with draws of its own. The standard error comes
        from how these S numbers differ, so it holds the error of the weights and that of z. As there, the estimate is
        low on average. Of rows that no weight was fitted to it is what models are to be compared by.

        Args:
            x: rows ``(N, *event_shape)``.
            condition: ``(N, condition_dim)``, or one row for all, for a conditional VAE.
            num_draws: S, at least 2.
            num_samples: draws of z for each row and draw of the weights.
            seed: of the draws.
            chunk: draws of z times rows that go through the decoder at once.
                None: as many as take about 40 MB (256 MB on a GPU), at most 5,000.
            progress: show a progress bar where it takes more than two seconds.

        Returns:
            ``(value, standard_error)``, each ``(N,)``, in nats.

        Raises:
            ValueError: for data that the model does not take, fewer than 2 draws, or numbers below 1.
            FloatingPointError: for a density that overflows.
        """
        x, condition, chunk = checked(self.vae, x, condition, num_samples, chunk)
        count(num_draws, "num_draws", 2)
        with isolated(count(seed, "seed", 0), validation=False):
            draws = self._sample(num_draws)
            seeds = torch.randint(2**31, (num_draws,)).tolist()
            vaes = tqdm(
                zip(self._vaes(draws), seeds, strict=True), total=num_draws, disable=not progress, unit="draw",
                desc="log marginal", delay=2,
            )  # fmt: skip
            parts = [
                log_marginal(vae, x, condition, num_samples=num_samples, seed=each, chunk=chunk, progress=False).value
                for vae, each in vaes
            ]
        return log_mean_weight(torch.stack(parts))

    def _predict(
        self, latents: Latents, num_rows: int, condition: Tensor | None, num_draws: int, mean: bool, seed: int
    ) -> xarray.DataArray:
        """Draws of x, or of E[x | z, W], at z's that ``latents`` draws for some rows."""
        import xarray

        with isolated(count(seed, "seed", 0), validation=False), evaluating(self.vae), trusted():
            draws, at_once = [], draws_at_once(self.vae, None)
            for vae in self._vaes(self._sample(num_draws)):
                parts = []
                for first, last in bounds(num_rows, at_once):
                    rows = slice(first, last)
                    c = None if condition is None else condition[rows]
                    p = vae.likelihood(latents(vae, rows, c), c)
                    parts.append((expectation(p) if mean else p.sample()).to(vae.like).cpu())
                draws.append(torch.cat(parts))
        values = torch.stack(draws).numpy()
        dims = ("draw", "row", *event_dims(values[0]))
        coords = {dim: range(size) for dim, size in zip(dims, values.shape, strict=True)}
        return xarray.DataArray(values, coords=coords, dims=dims, name="x")

    def _sample(self, num_draws: int) -> Tensor:
        """Draws from the random numbers as they are, ``(num_draws, P)``."""
        draws = self.weights.sample(torch.Size([count(num_draws, "num_draws", 1)]))
        return draws.to(self.vae.like)

    def _vaes(self, draws: Tensor) -> Iterator[VAE]:
        """One VAE, with draw after draw of the weights ``(S, P)``."""
        vae = copy.deepcopy(self.vae)
        for draw in draws:
            with torch.no_grad():
                for name, value in unflat(vae, self.names, draw).items():
                    vae.get_parameter(name).copy_(value)
            yield vae
