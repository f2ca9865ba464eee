"""Which of several runs has the best model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pyrovae.compare import compare
from pyrovae.pipeline.again import reload
from pyrovae.pipeline.prepare import conditions

if TYPE_CHECKING:
    import pandas as pd


def compare_runs(folders: Sequence[str | os.PathLike[str]], num_samples: int, progress: bool = True) -> pd.DataFrame:
    """`pyrovae.compare` of the models of run folders, on their test rows, which must be the same.

    Raises:
        ValueError: for fewer than two runs, other test rows or binarizations, or likelihoods that do not compare.
    """
    runs = {Path(folder).name: reload(folder) for folder in folders}
    if len(runs) < 2:
        raise ValueError(f"compare: expected two or more runs of different names, got {', '.join(map(str, folders))}")
    (first, (_, _, data)), *others = runs.items()
    for name, (_, _, other) in others:
        if data.test.shape != other.test.shape or not torch.equal(data.test.nan_to_num(), other.test.nan_to_num()):
            raise ValueError(
                f"compare: expected runs with the same test rows, got others for {first} ({data.name}) and {name} "
                f"({other.name}): another data set, split, seed, binarization or standardization"
            )
    models = {name: vae for name, (_, vae, _) in runs.items()}
    given = {name: conditions(own, settings)["test"] for name, (settings, _, own) in runs.items()}
    return compare(models, data.test, given, num_samples=num_samples, progress=progress)
