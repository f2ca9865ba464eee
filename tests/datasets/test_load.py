"""Names, and what every data set has in common."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import datasets as sklearn_datasets
from torch.distributions import constraints

import pyrovae.datasets
from pyrovae.checks import check_values
from pyrovae.datasets import DATASETS, load, names

EMBEDDED = ["digits", "breast_cancer", "iris", "wine", "diabetes", "linear_gaussian", "shapes"]
TABLES = ["breast_cancer", "iris", "wine", "diabetes"]


@pytest.mark.parametrize("name", EMBEDDED)
def test_contract(name):
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()
    data = load(name)
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state[1]) and np.random.get_state()[2] == numpy_state[2]
    assert data.name == name
    for part in ("train", "validation", "test"):
        x, labels = getattr(data, part), getattr(data, f"{part}_labels")
        assert x.dtype == torch.float32 and x.shape[1:] == data.event_shape and len(x) and x.device.type == "cpu"
        assert labels is None or labels.shape == (len(x),)
        shown = x if data.transform is None or part != "train" else data.transform(x, torch.Generator().manual_seed(0))
        check_values(shown, data.support)


@pytest.mark.parametrize("name", EMBEDDED)
def test_seed_repeats_and_differs(name):
    a, b, c = (load(name, seed=s) for s in (0, 0, 1))
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(a, part), getattr(b, part))
        assert not torch.equal(getattr(a, part), getattr(c, part))


def test_tensors_stay_on_the_cpu_under_another_default_device():
    with torch.device("meta"):
        found = [load(name) for name in ("digits", "iris", "linear_gaussian")]
    assert {x.device.type for data in found for x in (data.train, data.validation, data.test)} == {"cpu"}
    assert found[1].train_labels.device.type == found[1].loc.device.type == "cpu"


def bunch_of(name):
    if name == "diabetes":
        return sklearn_datasets.load_diabetes(scaled=False)
    return getattr(sklearn_datasets, f"load_{name}")()


def rejoined(data):
    """Rows and labels of all parts, rows in lexical order."""
    x = torch.cat([data.train, data.validation, data.test]).flatten(1).numpy()
    y = torch.cat([data.train_labels, data.validation_labels, data.test_labels]).numpy()
    order = np.lexsort((y, *x.T))
    return x[order], y[order]


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_scikit_learns_rows_with_their_labels(name):
    bunch, data = bunch_of(name), load(name, standardize=False)
    assert data.columns == tuple(bunch.feature_names) and data.event_shape == (len(data.columns),)
    assert data.support is constraints.real and data.loc is None and data.scale is None
    x, y = rejoined(data)
    expected, target = bunch.data.astype(np.float32), bunch.target
    order = np.lexsort((target, *expected.T))
    assert np.array_equal(x, expected[order]) and np.array_equal(y, target[order].astype(y.dtype))
    assert data.train_labels.dtype == (torch.float32 if name == "diabetes" else torch.int64)
    assert data.label_names == (None if name == "diabetes" else tuple(bunch.target_names))


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_standardized_by_their_training_rows_only(name):
    data, raw = load(name), load(name, standardize=False)
    np.testing.assert_allclose(data.train.double().mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(data.train.double().std(0, correction=0), 1, rtol=1e-5)
    for part in ("train", "validation", "test"):
        x = getattr(data, part) * data.scale + data.loc
        np.testing.assert_allclose(x, getattr(raw, part), rtol=1e-4, atol=1e-4 * raw.train.abs().max())
    assert data.validation.mean(0).abs().max() > 1e-2


def test_density_converts_to_raw_units_as_documented():
    data, raw = load("iris"), load("iris", standardize=False)
    normal = torch.distributions.Normal(0.0, 1.0)
    converted = normal.log_prob(data.test).sum(-1) - data.scale.log().sum()
    exact = torch.distributions.Normal(data.loc, data.scale).log_prob(raw.test).sum(-1)
    torch.testing.assert_close(converted, exact, rtol=1e-4, atol=1e-4)


def test_digits_are_scikit_learns():
    bunch, data = sklearn_datasets.load_digits(), load("digits", binarize="none")
    assert data.event_shape == (1, 8, 8) and data.support is constraints.unit_interval
    assert data.label_names == tuple("0123456789")
    x, y = rejoined(data)
    order = np.lexsort((bunch.target, *bunch.data.T))
    assert np.array_equal(x, (bunch.data / 16)[order].astype(np.float32)) and np.array_equal(y, bunch.target[order])


def test_catalog_has_a_line_and_a_reference_for_each_name():
    assert names() == {name: source.summary for name, source in DATASETS.items()}
    for source in DATASETS.values():
        assert source.reference.startswith("https://") and source.reference in source.loader.__doc__
        assert "\n" not in source.summary and 10 < len(source.summary) < 100


def test_unknown_name():
    with pytest.raises(ValueError) as error:
        load("fashion-mnist")
    assert str(error.value) == (
        f"unknown dataset 'fashion-mnist': expected one of {', '.join(sorted(DATASETS))}. "
        "Did you mean 'fashion_mnist'? A path to a .npy, .npz, .csv, .parquet file works too."
    )


def test_a_name_is_not_shadowed_by_a_file(tmp_path, monkeypatch):
    (tmp_path / "iris").write_text("not data")
    monkeypatch.chdir(tmp_path)
    assert load("iris").event_shape == (4,)


def test_options_that_do_not_fit():
    with pytest.raises(ValueError, match=r"^iris: expected no label, got 'species'. It is for files; named sets have"):
        load("iris", label="species")
    with pytest.raises(ValueError, match=r"^iris: binarize='dynamic' is for grey values from 0 to 1, and each value "):
        load("iris", binarize="dynamic")
    with pytest.raises(ValueError, match=r"^seed: expected a whole number of at least 0, got -1$"):
        load("iris", seed=-1)


def test_repr_is_short():
    assert repr(load("iris")) == "Dataset(name='iris', rows=(120, 15, 15), event_shape=(4,), support=Real())"


def test_nothing_slow_is_imported_with_the_package():
    files = sorted(Path(pyrovae.datasets.__file__).parent.glob("*.py"))
    assert len(files) > 10
    for file in files:
        for node in ast.parse(file.read_text()).body:
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not {m.split(".")[0] for m in modules} & {"torchvision", "sklearn", "pandas", "PIL", "scipy"}, file
