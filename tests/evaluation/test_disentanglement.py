"""Scores of disentanglement where they are known: by counting, by arithmetic, and for codes that are the factors."""

import itertools
import math
import statistics

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import pyrovae
from pyrovae import VAE, datasets
from pyrovae.distributions import inverse_scale
from pyrovae.evaluation import dci, factor_vae_score, mig, sap
from pyrovae.evaluation.disentanglement import importances, mutual_information, predictability
from pyrovae.evaluation.disentanglement.dci import factor_completeness, unit_disentanglement

FLOAT64 = torch.float64
SCORES = {"mig": mig, "sap": sap, "dci": dci, "factor_vae_score": factor_vae_score}


def grid(*sizes, times=1):
    """Every combination of so many levels, so many times."""
    return np.array(list(itertools.product(*map(range, sizes))) * times, dtype=float)


def entropy(*shares):
    return -sum(p * math.log(p) for p in shares if p)


def information(counts):
    """I(z; v) in nats, by its definition."""
    total = sum(map(sum, counts))
    rows, columns = [sum(row) for row in counts], [sum(column) for column in zip(*counts, strict=True)]
    return sum(
        n / total * math.log(n * total / (rows[i] * columns[j]))
        for i, row in enumerate(counts)
        for j, n in enumerate(row)
        if n
    )


def test_codes_that_are_the_factors_have_the_best_scores():
    factors = pd.DataFrame(grid(3, 4, 5, times=10), columns=["kind", "x", "y"]).astype({"kind": "category"})
    codes = factors.astype(float)[["y", "kind", "x"]].to_numpy() * [-3.0, 100.0, 0.01] + [0.0, 5.0, -7.0]
    assert mig(codes, factors) == pytest.approx(1, abs=1e-12)
    assert factor_vae_score(codes, factors) == 1
    # A guess at one of three classes is right once in three times.
    assert sap(codes, factors) == pytest.approx((1 - 1 / 3 + 1 + 1) / 3, abs=1e-12)
    assert dci(codes, factors) == pytest.approx((1, 1, 1), abs=1e-9)
    found = mutual_information(codes, factors)
    np.testing.assert_allclose(found.loc[[1, 2, 0], ["kind", "x", "y"]], np.eye(3), atol=1e-12)


def test_mutual_information_is_that_of_counts():
    """Of v0 (a quarter is 1) z0 is the truth and z2 is right in three of four rows of each kind; z1 is v1."""
    counts = [[18, 2], [6, 6]]
    v0 = np.repeat([0, 0, 1, 1], [18, 6, 2, 6])
    z2 = np.repeat([0, 1, 0, 1], [18, 6, 2, 6])
    v1 = np.tile([0, 1], 16)  # every count above is even: v1 is independent of the others
    codes, factors = np.stack([v0, v1, z2], 1), np.stack([v0, v1], 1)
    share = information(counts) / entropy(1 / 4, 3 / 4)
    assert 0.1 < share < 0.2
    found = mutual_information(codes, factors).to_numpy()
    np.testing.assert_allclose(found, [[1, 0], [0, 1], [share, 0]], atol=1e-12)
    assert mig(codes, factors) == pytest.approx((1 - share + 1) / 2, abs=1e-12)
    assert mig(codes[:, 1:], factors) == pytest.approx((share + 1) / 2, abs=1e-12)


def test_many_values_are_put_into_bins():
    """Of a uniform v, a bin of z = v is a bin of v; with 4 bins of 10 levels, by hand 3, 2, 2 and 3 of them."""
    v = np.linspace(0, 1, 1000)
    w = np.tile([0.0, 1.0], 500)
    codes = np.stack([v, w], 1)
    assert mutual_information(codes, codes).iloc[0, 0] == pytest.approx(1)
    factors = grid(10, 2)
    found = mutual_information(factors, pd.DataFrame(factors).astype({0: "category"}), bins=4)
    assert found.iloc[0, 0] == pytest.approx(entropy(0.3, 0.2, 0.2, 0.3) / math.log(10))
    assert mutual_information(factors, factors, bins=10).iloc[0, 0] == pytest.approx(1)


def test_predictability_is_r_squared_of_numbers_and_balanced_accuracy_of_classes():
    rng = np.random.default_rng(0)
    z, v = rng.normal(size=(30, 3)), rng.normal(size=(30, 2))
    z[:, 2] = 0.1
    expected = [[statistics.correlation(list(a), list(b)) ** 2 for b in v.T] for a in z[:, :2].T] + [[0, 0]]
    np.testing.assert_allclose(predictability(z, v), expected, atol=1e-12)
    by_hand = [abs(max(column) - sorted(column)[-2]) for column in zip(*expected, strict=True)]
    assert sap(z, v) == pytest.approx(statistics.mean(by_hand))
    # Of ten rows of a six lie on its side of the threshold, and both of b on theirs; the other unit says a, or b.
    kinds = pd.DataFrame({"kind": list("aaaaaaaaaabb"), "z": [0] * 6 + [1] * 6})
    codes = np.stack([kinds["z"], np.full(12, 0.1)], 1)
    found = predictability(codes, kinds, categorical=["kind"])
    np.testing.assert_allclose(found, [[(6 / 10 + 1) / 2, 1], [1 / 2, 0]])
    # Three classes need two thresholds; halves of two classes that alternate cannot be had with one.
    order = np.tile([[0, 0], [1, 1], [2, 0], [3, 1]], (5, 1))
    found = predictability(order, np.stack([order[:, 0].clip(0, 2), order[:, 1]], 1), categorical=[0, 1])
    np.testing.assert_allclose(found, [[1, 3 / 4], [2 / 3, 1]])


def test_dci_is_one_less_entropy():
    matrix = pd.DataFrame([[1.0, 0.5], [0.0, 0.5], [0.0, 0.0]])
    first = 1 - entropy(2 / 3, 1 / 3) / math.log(2)
    assert unit_disentanglement(matrix) == pytest.approx(0.75 * first + 0.25 * 1)
    np.testing.assert_allclose(factor_completeness(matrix), [1, 1 - math.log(2) / math.log(3)])
    assert unit_disentanglement(matrix * 0) == 0
    np.testing.assert_allclose(factor_completeness(matrix * 0), 0, atol=1e-12)


def test_importances_are_shares_of_variance():
    """v0 = 2 z0 + z1: z0 explains four fifths of the variance; v1 is one of z2's signs, and noise tells nothing."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(3000, 3))
    factors = pd.DataFrame({"sum": 2 * z[:, 0] + z[:, 1], "sign": z[:, 2] > 0, "noise": rng.normal(size=3000)})
    found, predicted = importances(z, factors)
    np.testing.assert_allclose(found["sum"], [0.8, 0.2, 0], atol=0.03)
    np.testing.assert_allclose(found["sign"], [0, 0, 1], atol=0.02)
    np.testing.assert_allclose(found["noise"], 1 / 3, atol=0.05)
    assert predicted["sum"] > 0.97 and predicted["sign"] > 0.98 and predicted["noise"] < 0.02
    assert dci(z, factors).informativeness == pytest.approx(predicted.mean())


def test_factor_vae_score_counts_votes():
    three = grid(4, 4, 4)
    # Where the third is fixed, a unit of the other factors has the vote, and is wrong.
    assert factor_vae_score(three[:, :2], three) == pytest.approx(2 / 3)
    # Sum and difference of two bits move alike, whichever is fixed.
    two = grid(2, 2, times=8)
    assert factor_vae_score(two @ [[1, 1], [1, -1]], two) == pytest.approx(1 / 2)
    # A unit that moves little altogether, and one that hardly moves where its factor is fixed.
    codes = np.stack([100 * two[:, 0] + np.repeat(np.arange(8) % 2, 4), 0.1 * two[:, 1]], 1)
    assert factor_vae_score(codes, two) == 1
    # Units that do not move have no vote, the first of them or the last.
    still = np.full((len(two), 1), 0.1)
    assert factor_vae_score(np.hstack([still, two, still]), two) == 1
    assert factor_vae_score(np.hstack([still, still]), two) == 1 / 2


@pytest.fixture(scope="module")
def uniform():
    return np.random.default_rng(0).uniform(-1, 1, (2000, 4))


def test_rotated_codes_have_low_scores(uniform):
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4))).Q
    straight, turned = (
        [mig(codes, uniform), sap(codes, uniform), *dci(codes, uniform)[:2]] for codes in (uniform, uniform @ rotation)
    )
    assert min(straight) > 0.9 and max(turned) < 0.6, (straight, turned)
    even = uniform @ np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
    assert max(mig(even, uniform), sap(even, uniform), *dci(even, uniform)[:2]) < 0.06
    assert dci(even, uniform).informativeness > 0.85


def test_noise_has_the_scores_of_chance(uniform):
    noise = np.random.default_rng(1).normal(size=(2000, 6))
    assert mig(noise, uniform) < 0.01 and sap(noise, uniform) < 0.005 and max(dci(noise, uniform)) < 0.05
    assert factor_vae_score(noise, uniform, num_votes=1000) == pytest.approx(1 / 4, abs=0.04)
    classes = pd.DataFrame(uniform > 0.3)
    assert sap(noise, classes) < 0.03 and dci(noise, classes).informativeness < 0.05


def test_two_units_of_one_factor():
    factors = grid(4, 5, times=20)
    codes = factors[:, [0, 0, 1, 1]]
    assert mig(codes, factors) == pytest.approx(0, abs=1e-12) and sap(codes, factors) == pytest.approx(0, abs=1e-12)
    assert mig(codes[:, :3], factors) == pytest.approx(0.5)
    found = dci(codes, factors)
    assert found.disentanglement == pytest.approx(1) and factor_vae_score(codes, factors) == 1
    assert found.completeness == pytest.approx(1 - math.log(2) / math.log(4), abs=0.02)


def test_scores_do_not_ask_for_order_sign_or_length_of_units(uniform):
    rng = np.random.default_rng(2)
    codes = np.hstack([uniform @ rng.normal(size=(4, 4)) + 0.3 * rng.normal(size=(2000, 4)), uniform[:, :1]])
    factors = np.digitize(uniform, [-0.5, 0, 0.5])
    again = codes[:, [3, 1, 4, 0, 2]] * [-1, 2, -0.3, 10, 1] + 5
    for score in (mig, sap, factor_vae_score):
        assert score(again, factors) == pytest.approx(score(codes, factors), abs=1e-9)
    assert dci(again, factors) == pytest.approx(dci(codes, factors), abs=0.02)


@pytest.mark.parametrize("name", SCORES)
def test_scores_follow_the_seed_and_leave_the_users(name, uniform):
    factors = np.digitize(uniform, [-0.5, 0.5])
    codes = uniform + np.random.default_rng(3).normal(size=uniform.shape)
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    kept = codes.copy(), factors.copy()
    first = SCORES[name](codes, factors)
    np.random.seed(5)
    torch.manual_seed(5)
    assert SCORES[name](torch.tensor(codes), pd.DataFrame(factors)) == first
    assert np.array_equal(codes, kept[0]) and np.array_equal(factors, kept[1])
    np.random.set_state(("MT19937", numpy_state, 624))
    torch.set_rng_state(torch_state)
    SCORES[name](codes, factors)
    assert np.array_equal(np.random.get_state()[1], numpy_state) and torch.equal(torch.get_rng_state(), torch_state)
    if name in ("dci", "factor_vae_score"):
        assert SCORES[name](codes, factors, seed=1) != first


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_what_is_refused(score):
    codes, factors = grid(2, 3, times=5), grid(2, 3, times=5)
    holes, far, text = factors.copy(), codes.copy(), pd.DataFrame(factors, columns=["a", "b"])
    holes[4, 1], far[0, 0] = np.nan, np.inf
    text["b"] = "t" + text["b"].astype(str)
    for wrong, message in [
        ((codes[1:], factors), "factors: expected one row for each of the 29 rows of codes, got 30"),
        ((codes, factors[:, 0]), r"factors: expected a table \(N, columns\), got shape \(30,\)"),
        ((codes[:, :1], factors), "codes: expected two columns or more, got 1"),
        ((codes, holes), r"factors: expected a value in each row, got none \(NaN\) at row 4, column 1"),
        ((holes, factors), r"codes: expected a value in each row, got none \(NaN\) at row 4, column 1"),
        ((far, factors), "codes: expected finite numbers in column 0, got infinity"),
        ((codes, factors * [1, 0]), "factors: expected two values or more in each column, got one in 1. Leave it out"),
        ((codes, text), "factors: expected numbers in column 'b', got dtype .*For classes, name the column in categ"),
        ((text, factors), "codes: expected numbers in column 'b', got dtype"),
        ((codes, text.rename(columns={"a": "b"})), r"a name of its own for each column, got \['b', 'b'\]"),
        ((codes[:1], factors[:1]), "codes: expected two rows or more, got 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            score(*wrong)
    with pytest.raises(ValueError, match=r"categorical: expected some of \['a', 'b'\], got 'c'"):
        score(codes, text, categorical=["b", "c"])
    assert score(codes, text, categorical=["b"]) == score(codes, factors, categorical=[1])
    # A category that none of the rows has is not a class.
    part = text.astype({"b": "category"})[text["b"] != "t2.0"]
    assert score(codes[part.index], part) == score(codes[part.index], factors[part.index], categorical=[1])


def test_what_single_scores_refuse():
    factors = grid(2, 3, times=5)
    with pytest.raises(ValueError, match="codes: expected 20 rows or more, got 12"):
        dci(factors[:12], factors[:12])
    rare = pd.DataFrame({"kind": list("abbbb" * 6), "x": factors[:, 0]}, dtype="category")
    rare.loc[5:, "kind"] = "b"
    with pytest.raises(ValueError, match="expected 4 rows or more of each class of 'kind', got 1 of 'a'"):
        dci(factors, rare)
    with pytest.raises(ValueError, match="expected rows that share a value of 1, got none"):
        factor_vae_score(factors[:9], np.stack([factors[:9, 0], np.arange(9)], 1))
    for options in ({"bins": 1}, {"num_rows": 1}, {"num_votes": 0}, {"seed": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(options))}: expected a whole number"):
            factor_vae_score(factors, factors, **options)


class Middle(nn.Module):
    """The mean column and row of what is covered, from the middle of the image."""

    def forward(self, x):
        shares = x[:, 0] / x.sum((1, 2, 3)).clamp_min(1)[:, None, None]
        at = torch.arange(28, dtype=x.dtype) - 13.5
        return torch.stack([shares.sum(1) @ at, shares.sum(2) @ at], 1)


def encoding(encoder, event_shape, weight, **arguments):
    """A VAE whose code is a linear map of what an encoder gives."""
    arguments = {"posterior": "delta", **arguments}
    vae = VAE(event_shape, len(weight), likelihood="gaussian", encoder=encoder, **arguments).double()
    with torch.no_grad():
        vae.posterior.head.weight[: len(weight)] = torch.tensor(weight, dtype=FLOAT64)
        vae.posterior.head.weight[len(weight) :] = 0
        vae.posterior.head.bias.zero_()
    return vae


def test_a_vae_that_reads_two_factors_off_the_images():
    images, factors = datasets.shapes(3000, seed=1)
    even = (factors["shape"] != "triangle").to_numpy()  # the middle of a triangle's box is not its mean
    images, factors = images[torch.tensor(even)], factors[even]
    vae = encoding(Middle(), (1, 28, 28), [[0, -0.2], [1, 0], [0, 0], [0, 1e-3]])
    found = pyrovae.disentanglement(vae, images.double(), factors)
    assert found.active.tolist() == [True, True, False, False]
    for matrix in (found.mutual_information, found.predictability, found.importance):
        assert matrix.shape == (4, 5) and matrix.index.name == "unit" and matrix.columns.name == "factor"
        np.testing.assert_allclose(matrix.loc[[0, 1], ["y", "x"]], np.eye(2), atol=0.02)
        assert matrix.columns.tolist() == factors.columns.tolist()
    np.testing.assert_allclose(found.factors.loc[["x", "y"]], 1, atol=0.02)
    assert found.factors.loc[["shape", "size", "stretch"], ["mig", "sap", "informativeness"]].max(axis=None) < 0.1
    for name, mean in found.factors.mean().items():
        assert getattr(found, name) == pytest.approx(mean)
    # Two of the five are told; whichever of the others is fixed, a unit of these two has the vote.
    assert found.factor_vae == pytest.approx(2 / 5) and not found.votes.loc[[2, 3]].to_numpy().any()
    assert str(found).splitlines()[-1] == "FactorVAE score   0.400  (by chance 0.200)"
    again = pyrovae.disentanglement(vae, images.double(), factors)
    assert again.importance.equals(found.importance) and again.votes.equals(found.votes)


def test_codes_are_posterior_means():
    """q(z | x) = N(x, 5^2): its mean is the factor, whatever its scale; scores are those of the plain columns."""
    factors = grid(3, 4, times=10)
    vae = encoding(nn.Identity(), (2,), np.eye(2), posterior="normal")
    with torch.no_grad():
        vae.posterior.head.bias[2:] = inverse_scale(torch.tensor(5.0, dtype=FLOAT64), vae.posterior.piece.floor)
    state = torch.get_rng_state()
    found = pyrovae.disentanglement(vae, torch.tensor(factors), torch.tensor(factors), categorical=[0])
    assert torch.equal(torch.get_rng_state(), state) and vae.training
    assert found.mig == pytest.approx(mig(factors, factors)) == pytest.approx(1)
    assert found.sap == pytest.approx(sap(factors, factors, categorical=[0])) == pytest.approx((2 / 3 + 1) / 2)
    known = dci(factors, factors, categorical=[0])
    assert (found.disentanglement, found.completeness, found.informativeness) == pytest.approx(known)
    assert found.factor_vae == 1
    still = pyrovae.disentanglement(vae, torch.tensor(factors), factors, active=1e9)
    assert (still.mig, still.sap, still.disentanglement, still.completeness, still.factor_vae) == (0, 0, 0, 0, 0.5)


def test_what_a_vae_refuses():
    x = torch.randn(30, 4)
    with pytest.raises(ValueError, match="expected a VAE of one layer of latents, got several"):
        pyrovae.disentanglement(VAE((4,), [2, 2], likelihood="gaussian"), x, torch.rand(30, 2))
    vae = VAE((4,), 2, likelihood="gaussian")
    with pytest.raises(ValueError, match="factors: expected one row for each of the 30 rows of codes, got 29"):
        pyrovae.disentanglement(vae, x, torch.rand(29, 2))
    with pytest.raises(ValueError, match=r"x: expected shape \(N, 4\)"):
        pyrovae.disentanglement(vae, x[:, :3], torch.rand(30, 2))
