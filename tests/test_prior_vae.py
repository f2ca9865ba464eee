"""The helpers of experiments/prior_vae.py: which areas touch, the CAR prior in both of its forms, agreement."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from pyro import poutine
from scipy.stats import multivariate_normal

FOLDER = Path(__file__).parents[1] / "experiments"
SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])


@pytest.fixture
def script(monkeypatch):
    if not FOLDER.is_dir():
        pytest.skip("experiments are not there")
    monkeypatch.syspath_prepend(FOLDER)
    import prior_vae

    return prior_vae


@pytest.fixture
def areas(script):
    """Four squares in a row, the last with an island of its own, and which of them touch."""
    outlines = [[SQUARE + [x, 0.0]] for x in range(4)]
    outlines[3].append(SQUARE + [9.0, 9.0])
    return script.touching(outlines)


def test_areas_touch_where_they_share_a_corner(script, areas):
    assert np.array_equal(areas, np.eye(4, k=1) + np.eye(4, k=-1))
    assert script.connected(areas) and not script.connected(np.kron(np.eye(2), np.ones((2, 2))))


def test_rings_of_one_polygon_and_of_several(script):
    one, hole = SQUARE.tolist(), (0.5 * SQUARE).tolist()
    assert len(list(script.rings({"type": "Polygon", "coordinates": [one, hole]}))) == 2
    assert len(list(script.rings({"type": "MultiPolygon", "coordinates": [[one, hole], [one]]}))) == 3


@pytest.mark.parametrize("alpha", [0.05, 0.9])
def test_both_forms_are_the_car_prior(script, areas, alpha):
    car = script.CAR(areas)
    exact = np.linalg.inv(np.diag(areas.sum(1)) - alpha * areas)
    f = torch.tensor([0.3, -0.2, 0.5, 0.1])
    site = poutine.trace(poutine.condition(car.centred, {"alpha": torch.tensor(alpha), "f": f})).get_trace().nodes["f"]
    density = site["fn"].log_prob(f).item()
    assert density == pytest.approx(multivariate_normal(np.zeros(4), exact).logpdf(f.numpy()), abs=1e-4)
    # A linear map of standard noise: its square is the covariance.
    root = car.field(torch.tensor([alpha]), torch.eye(4)).double().numpy()
    np.testing.assert_allclose(root.T @ root, exact, rtol=1e-4, atol=1e-5)


def test_the_training_draws_have_the_covariance_averaged_over_alpha(script, areas):
    car = script.CAR(areas)
    alphas = np.linspace(*script.ALPHA, 50_001)[:, None, None]
    exact = np.linalg.inv(np.diag(areas.sum(1)) - (alphas[1:] + alphas[:-1]) / 2 * areas).mean(0)
    np.testing.assert_allclose(car.covariance(), exact, rtol=1e-3)
    draws = car.batch(torch.zeros(400_000, 4), torch.Generator().manual_seed(0)).double().numpy()
    np.testing.assert_allclose(np.cov(draws.T), car.covariance(), rtol=0.06)


def test_the_quantities_are_those_of_the_draws(script, areas):
    car = script.CAR(areas)
    sites = {"b0": torch.tensor([0.5, 0.0]), "tau": torch.tensor([4.0, 1.0]), "alpha": torch.tensor([0.5, 0.9]),
             "f": torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 0.0, 1.0]])}  # fmt: skip
    effect, logit = script.quantities(car.centred, torch.ones(4), sites)
    np.testing.assert_allclose(effect, [[0.5, 1.0, 1.5, 2.0], [0.0, 1.0, 0.0, 1.0]])
    np.testing.assert_allclose(logit, effect + [[0.5], [0.0]])


def test_agreement_is_in_sds_of_the_reference(script):
    truth = {"mean": np.array([0.1, 0.2]), "sd": np.array([0.01, 0.02]), "mean_error": np.array([0.0, 0.0]),
             "sd_error": np.array([0.0, 0.0])}  # fmt: skip
    found = truth | {"mean": np.array([0.1, 0.19]), "sd": np.array([0.02, 0.03]), "mean_error": np.array([0.0, 0.002])}
    result = script.agreement(found, truth)
    assert result["shift_most"] == pytest.approx(-0.5) and result["shift_most_error"] == pytest.approx(0.1)
    assert result["sd_ratio_farthest"] == pytest.approx(2.0)


def test_the_districts_of_zimbabwe(script):
    path = Path(os.environ.get("PYROVAE_DATA_ROOT", FOLDER / "../../shared/data")) / script.FILE
    if not path.is_file():
        pytest.skip("the survey's data are not there")
    districts = script.read(path)
    a = districts.adjacency
    assert a.shape == (63, 63) and (a == a.T).all() and not a.diagonal().any() and a.sum() == 2 * 164
    assert (districts.y <= districts.n).all() and (districts.y > 0).all()
