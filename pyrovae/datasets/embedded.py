"""The small sets that come inside scikit-learn: nothing to download."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyrovae.datasets.assemble import assemble
from pyrovae.datasets.dataset import Dataset


def digits(*, seed: int = 0) -> Dataset:
    """1,797 handwritten digits of 8 x 8 pixels with 17 grey levels from 0 to 1; event shape ``(1, 8, 8)``.

    Reference: Alpaydin and Kaynak, 1998, https://doi.org/10.24432/C50P49
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    names = tuple(str(name) for name in bunch.target_names)
    parts, labels = {"train": bunch.images / 16}, {"train": bunch.target}
    return assemble("digits", parts, labels, seed=seed, standardize=False, label_names=names)


def breast_cancer(*, seed: int = 0, standardize: bool = True) -> Dataset:
    """569 tumours, 30 measures of their cell nuclei; labels malignant and benign.

    Reference: Wolberg, Mangasarian, Street and Street, 1993, https://doi.org/10.24432/C5DW2B
    """
    from sklearn.datasets import load_breast_cancer

    return _table("breast_cancer", load_breast_cancer, seed, standardize)


def iris(*, seed: int = 0, standardize: bool = True) -> Dataset:
    """150 flowers of three species, four lengths in cm.

    Reference: Fisher, 1936, https://doi.org/10.1111/j.1469-1809.1936.tb02137.x
    """
    from sklearn.datasets import load_iris

    return _table("iris", load_iris, seed, standardize)


def wine(*, seed: int = 0, standardize: bool = True) -> Dataset:
    """178 wines of three cultivars, 13 chemical measures.

    Reference: Aeberhard and Forina, 1992, https://doi.org/10.24432/C5PC7J
    """
    from sklearn.datasets import load_wine

    return _table("wine", load_wine, seed, standardize)


def diabetes(*, seed: int = 0, standardize: bool = True) -> Dataset:
    """442 patients, 10 measures in their own units; the labels are a float target, disease progression in a year.

    Reference: Efron, Hastie, Johnstone and Tibshirani, 2004, https://doi.org/10.1214/009053604000000067
    """
    from sklearn.datasets import load_diabetes

    return _table("diabetes", lambda: load_diabetes(scaled=False), seed, standardize)


def _table(name: str, load: Callable[[], Any], seed: int, standardize: bool) -> Dataset:
    bunch = load()
    names = bunch.get("target_names")
    return assemble(
        name,
        {"train": bunch.data},
        {"train": bunch.target},
        seed=seed,
        standardize=standardize,
        columns=tuple(str(column) for column in bunch.feature_names),
        label_names=None if names is None else tuple(str(label) for label in names),
    )
