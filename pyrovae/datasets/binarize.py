"""Grey pixels to black and white."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.checks import words
from pyrovae.datasets.dataset import Dataset
from pyrovae.datasets.seeds import generator
from pyrovae.registry import choose

MODES = ("none", "static", "dynamic", "threshold")


def binarize(dataset: Dataset, mode: str, seed: int = 0) -> Dataset:
    r"""``dataset`` with pixels in {0, 1} for grey ones in [0, 1].

    A Bernoulli likelihood on grey pixels is not a likelihood: binarize them, or take ``ContinuousBernoulli``.

    ============= ==============================================================================================
    ``none``      grey values stay
    ``static``    every pixel is drawn once, :math:`x \sim \text{Bernoulli}(\text{grey})`
    ``dynamic``   training rows stay grey and ``transform`` draws each batch anew, which works against
                  overfitting; validation and test pixels are drawn once, the same as under ``static``
    ``threshold`` :math:`x = 1[\text{grey} > 0.5]`
    ============= ==============================================================================================

    Log-likelihoods of differently binarized pixels do not compare.

    Reference: Salakhutdinov and Murray, 2008, https://doi.org/10.1145/1390156.1390266 (static);
    Burda, Grosse and Salakhutdinov, 2016, https://arxiv.org/abs/1509.00519 (dynamic).

    Raises ValueError for an unknown mode, and for any mode but ``none`` on data that are not grey.
    """
    choose(mode, MODES, "binarize mode")
    if mode == "none":
        return dataset
    if not dataset.grey:
        raise ValueError(
            f"{dataset.name}: binarize={mode!r} is for grey values from 0 to 1, and each value here is "
            f"{words(dataset.support)}. Use binarize='none'."
        )
    train, transform = dataset.train, None
    if mode == "threshold":
        splits = (train, dataset.validation, dataset.test)
        train, validation, test = (torch.where(x.isnan(), x, (x > 0.5).float()) for x in splits)
    else:
        validation = draw(dataset.validation, generator(seed, "validation pixels"))
        test = draw(dataset.test, generator(seed, "test pixels"))
        if mode == "static":
            train = draw(train, generator(seed, "train pixels"))
        else:
            transform = draw
    return replace(
        dataset,
        train=train,
        validation=validation,
        test=test,
        support=constraints.boolean,
        transform=transform,
    )


def draw(grey: Tensor, generator: torch.Generator) -> Tensor:
    """One Bernoulli draw of each pixel, on the batch's device; a missing one (NaN) stays.

    It is drawn on the generator's device: a CUDA generator is fast for CUDA batches, a CPU one gives the same
    pixels on every machine.
    """
    drawn = torch.bernoulli(grey.nan_to_num(0.0).to(generator.device), generator=generator).to(grey.device)
    return torch.where(grey.isnan(), grey, drawn)
