"""Rows in three parts, and columns to mean 0 and standard deviation 1."""

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from pyrovae.datasets.seeds import generator
from pyrovae.datasets.splits import PARTS, split
from pyrovae.datasets.standardize import standardization


@pytest.mark.parametrize("n", [3, 4, 9, 10, 19, 20, 101, 1797])
def test_one_part_becomes_three_that_are_disjoint_and_complete(n):
    rows = split({"train": n}, seed=0)
    assert list(rows) == list(PARTS) and {source for source, _ in rows.values()} == {"train"}
    assert sorted(torch.cat([index for _, index in rows.values()]).tolist()) == list(range(n))
    sizes = [len(index) for _, index in rows.values()]
    assert sizes[1] == sizes[2] == max(1, n // 10) and sizes[0] >= 1


def test_rows_are_shuffled_by_the_seed():
    a, b, c = (split({"train": 100}, seed=s)["test"][1] for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert not torch.equal(a, a.sort().values)


@pytest.mark.parametrize("given", ["validation", "test"])
def test_a_part_that_is_missing_is_cut_from_train(given):
    (missing,) = {"validation", "test"} - {given}
    rows = split({"train": 50, given: 7}, seed=0)
    assert rows[given][0] == given and rows[given][1].tolist() == list(range(7))
    assert [rows[part][0] for part in ("train", missing)] == ["train", "train"]
    assert len(rows[missing][1]) == 5
    assert sorted(torch.cat([rows["train"][1], rows[missing][1]]).tolist()) == list(range(50))


def test_parts_that_are_all_there_stay_as_they_are():
    rows = split({"train": 4, "validation": 3, "test": 2}, seed=0)
    assert {part: (source, index.tolist()) for part, (source, index) in rows.items()} == {
        "train": ("train", [0, 1, 2, 3]),
        "validation": ("validation", [0, 1, 2]),
        "test": ("test", [0, 1]),
    }


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"train": 2}, "t: expected at least 3 rows to split into train, validation, test, got 2"),
        ({"train": 0}, "t: expected at least 3 rows to split into train, validation, test, got 0"),
        ({"train": 1, "test": 5}, "t: expected at least 2 rows to split into train, validation, got 1"),
        ({"train": 5, "validation": 5, "test": 0}, "t: expected at least one row in 'test', got none"),
    ],
)
def test_too_few_rows(sizes, message):
    with pytest.raises(ValueError) as error:
        split(sizes, seed=0, name="t")
    assert str(error.value) == message


def test_standardization_is_scikit_learns():
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 5 + 2
    loc, scale = standardization(x)
    expected = StandardScaler().fit(x.numpy())
    np.testing.assert_allclose(loc, expected.mean_, rtol=1e-12)
    np.testing.assert_allclose(scale, expected.scale_, rtol=1e-12)


@pytest.mark.parametrize("value", [0.1, 1e300, -3.0, 0.0])
def test_a_constant_column_gets_scale_one(value):
    x = torch.full((1437, 1), value, dtype=torch.float64)
    loc, scale = standardization(x)
    assert (loc.item(), scale.item()) == (value, 1.0)


def test_streams_of_one_seed_differ_and_repeat():
    def numbers(seed, stream):
        return torch.rand(4, generator=generator(seed, stream)).tolist()

    assert numbers(0, "a") == numbers(0, "a")
    assert len({tuple(numbers(seed, stream)) for seed in (0, 1) for stream in ("a", "b")}) == 4
    with pytest.raises(ValueError, match=r"^seed: expected a whole number of at least 0, got -1$"):
        generator(-1, "a")
