"""What the ELBO is below log p(x), and whose fault that is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from tqdm import tqdm

from pyrovae.checks import count, trusted
from pyrovae.evaluation.psis import k_hat
from pyrovae.evaluation.refine import LAST, many_log_weights, not_refinable, refine
from pyrovae.evaluation.weights import log_mean_weight
from pyrovae.modes import evaluating, isolated
from pyrovae.training.batches import ordered
from pyrovae.vae import VAE

if TYPE_CHECKING:
    import pandas as pd


def inference_gaps(
    vae: VAE,
    x: Tensor,
    condition: Tensor | None = None,
    *,
    num_samples: int = LAST,
    steps: int = 100,
    lr: float = 0.05,
    draws: int = 8,
    rows_at_once: int = 256,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    r"""The gap between log p(x) and the ELBO of each row, split in two (Cremer, Li & Duvenaud 2018,
    https://arxiv.org/abs/1801.03558):

    .. math::
        \underbrace{\log p(x) - \mathrm{ELBO}(q_\phi)}_{\text{inference}}
        = \underbrace{\log p(x) - \mathrm{ELBO}(q^*)}_{\text{approximation}}
        + \underbrace{\mathrm{ELBO}(q^*) - \mathrm{ELBO}(q_\phi)}_{\text{amortisation}}

    where :math:`q_\phi` is the encoder's posterior and :math:`q^*` the best of its family for this row, which Adam
    finds from there. The first part is what the family cannot say, the second what one network for all rows misses.
    log p(x) is estimated by importance sampling from :math:`q^*`, and low where ``k_hat`` is above 0.7: the
    approximation gap is then too small.

    Args:
        vae: a trained model, with a reparameterised posterior of one layer.
        x: rows ``(N, *event_shape)``.
        condition: ``(N, condition_dim)``, for a conditional VAE.
        num_samples: draws by which the ELBOs and log p(x) are estimated.
        steps, lr, draws: of the search for the best posterior; draws of z a step.
        rows_at_once: rows that are searched for together.
        seed: of the draws.
        progress: show a progress bar where it takes more than two seconds.

    Returns:
        A DataFrame, one row of data a row, in nats: elbo, refined_elbo, log_marginal,
        log_marginal_standard_error, k_hat (of the weights from :math:`q^*`), inference, approximation, amortisation.

    Raises:
        ValueError: for data that the model does not take, or a posterior that cannot be fitted to a row.

    >>> import torch
    >>> vae = VAE((4,), 2, likelihood="gaussian")
    >>> gaps = inference_gaps(vae, torch.randn(3, 4), steps=2, progress=False)
    >>> bool((gaps.approximation + gaps.amortisation - gaps.inference).abs().max() < 1e-9)
    True
    """
    import pandas as pd

    named = {"num_samples": num_samples, "steps": steps, "draws": draws, "rows_at_once": rows_at_once}
    for name, value in named.items():
        count(value, name, 1)
    x = vae.check(x)
    condition = vae.check_condition(condition, len(x))
    if reason := not_refinable(vae, x, condition):
        raise ValueError(f"inference_gaps: expected a posterior that can be fitted to a row, but {reason}")
    parts = []
    with (
        isolated(seed, validation=False),
        evaluating(vae),
        trusted(),
        tqdm(total=len(x), disable=not progress, unit="row", desc="gaps", delay=2) as bar,
    ):
        for _, rows, c in ordered(x, condition, rows_at_once):
            first, best = refine(vae, rows, c, steps=steps, lr=lr, draws=draws)
            weights = many_log_weights(vae, best, rows, c, num_samples)
            elbo = many_log_weights(vae, first, rows, c, num_samples).mean(0)
            estimate = log_mean_weight(weights)
            columns = {
                "elbo": elbo,
                "refined_elbo": weights.mean(0),
                "log_marginal": estimate.value,
                "log_marginal_standard_error": estimate.standard_error,
                "k_hat": k_hat(weights),
            }
            parts.append(pd.DataFrame({name: values.double().cpu().numpy() for name, values in columns.items()}))
            bar.update(len(rows))
    table = pd.concat(parts, ignore_index=True)
    table["inference"] = table["log_marginal"] - table["elbo"]
    table["approximation"] = table["log_marginal"] - table["refined_elbo"]
    table["amortisation"] = table["refined_elbo"] - table["elbo"]
    table.index.name = "row"
    return table
