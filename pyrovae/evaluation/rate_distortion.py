"""How many nats a code carries against how well it gives rows back, over beta and the size of the code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyrovae.checks import count
from pyrovae.evaluation.evaluate import evaluate
from pyrovae.training import fit
from pyrovae.training.sweep import sweep
from pyrovae.vae import VAE

if TYPE_CHECKING:
    import pandas as pd


def rate_distortion(
    make: Callable[[int], VAE],
    x: Tensor,
    held_out: Tensor,
    condition: Tensor | None = None,
    held_out_condition: Tensor | None = None,
    *,
    latent_dims: Sequence[int] = (2, 8, 32),
    betas: Sequence[float] = (0.1, 0.3, 1.0, 3.0, 10.0),
    num_samples: int = 100,
    seed: int = 0,
    n_jobs: int = 1,
    progress: bool = True,
    **options: object,
) -> pd.DataFrame:
    r"""Train a VAE for each size of z and each weight beta of the KL term, and see what rate buys what distortion.

    .. math:: R = \mathrm{E}_n \mathrm{KL}(q(z \mid x_n) \,\|\, p(z)), \qquad
        D = -\mathrm{E}_n \mathrm{E}_q \log p(x_n \mid z), \qquad \mathrm{ELBO} = -(R + D)

    in nats a row of held-out data. Each beta finds the point of the curve at which one more nat of R takes beta nats
    off D; R + D is least at beta = 1. R bounds the information that codes carry of rows from above. After Alemi et al.
    (2018), https://arxiv.org/abs/1711.00464.

    Args:
        make: builds a new VAE with so many latent dimensions; torch is seeded before.
        x: training rows ``(N, *event_shape)``.
        held_out: rows of which R and D are.
        condition, held_out_condition: for a conditional VAE.
        latent_dims: sizes of z.
        betas: weights of the KL term.
        num_samples: draws for each held-out row.
        seed: of the first weights, the batches and the draws.
        n_jobs: trainings at a time, in processes (see `pyrovae.training.sweep`).
        progress: show a progress bar.
        options: further arguments of `pyrovae.fit`.

    Returns:
        A DataFrame by latent_dim and beta: rate, distortion, elbo, their standard errors over rows, and active_units.

    Raises:
        ValueError: for no sizes or weights, or what `pyrovae.fit` refuses.

    >>> make = lambda size: VAE((4,), size, likelihood="gaussian")
    >>> x = torch.randn(20, 4)
    >>> rate_distortion(make, x, x, latent_dims=[2], betas=[0.5, 2.0], epochs=2, progress=False).index.tolist()
    [(2, 0.5), (2, 2.0)]
    """
    import pandas as pd

    if not latent_dims or not betas:
        raise ValueError(f"expected one latent_dim and one beta or more, got {latent_dims} and {betas}")
    for size in latent_dims:
        count(size, "latent_dims", 1)

    def run(size: int, beta: float) -> dict[str, float]:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            vae = make(size)
        fit(vae, x, condition, beta=beta, seed=seed, progress=False, **options)
        found = evaluate(vae, held_out, held_out_condition, num_samples=num_samples, seed=seed, progress=False)
        terms = found.rows[["kl", "reconstruction", "elbo"]].rename(
            columns={"kl": "rate", "reconstruction": "distortion"}
        )
        terms["distortion"] *= -1
        return {
            "latent_dim": size, "beta": beta, **terms.mean(),
            **terms.sem().add_suffix("_standard_error"), "active_units": int(found.units["active"].sum()),
        }  # fmt: skip

    settings = [(size, beta) for size in latent_dims for beta in betas]
    rows = sweep(run, settings, n_jobs=n_jobs, desc="rate-distortion", progress=progress)
    return pd.DataFrame(rows).set_index(["latent_dim", "beta"])
