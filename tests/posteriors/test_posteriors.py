import math

import numpy as np
import pytest
import torch
from scipy import stats

from pyrovae import posteriors

PARAMS = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Z = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_normal_takes_locations_then_raw_scales():
    piece = posteriors.Normal(floor=0.01)
    assert piece.build((3,)) == 6 and not list(piece.parameters())
    q = piece(PARAMS)
    assert (q.batch_shape, q.event_shape) == ((5,), (3,))
    loc, raw = PARAMS.numpy()[:, :3], PARAMS.numpy()[:, 3:]
    expected = stats.norm.logpdf(Z.numpy(), loc, 0.01 + np.logaddexp(0, raw)).sum(-1)
    assert q.log_prob(Z).tolist() == pytest.approx(expected.tolist(), rel=1e-12)
    assert torch.equal(q.mean, PARAMS[:, :3])


@pytest.mark.parametrize("floor", [1e-4, 0.2])
def test_the_floor(floor):
    piece = posteriors.Normal(floor=floor)
    piece.build((3,))
    q = piece(torch.full((2, 6), -1e5))
    assert torch.allclose(q.stddev, torch.tensor(floor), rtol=1e-6)
    assert torch.isfinite(q.log_prob(q.mean)).all()
    assert posteriors.Normal().floor == 1e-4


def test_draws_are_reparameterised_and_have_its_moments():
    piece = posteriors.Normal()
    piece.build((3,))
    params = PARAMS.clone().requires_grad_()
    draws = piece(params).rsample((4000,))
    (slope,) = torch.autograd.grad(draws.sum(), params)
    assert (slope != 0).all()
    q = piece(PARAMS)
    assert ((draws.mean(0) - q.mean) / (q.stddev / math.sqrt(4000))).abs().max() < 4
    assert ((draws.var(0) / q.variance - 1) / math.sqrt(2 / 4000)).abs().max() < 4


def test_make():
    assert posteriors.make("normal(floor=0.5)").floor == 0.5
    piece = posteriors.Normal()
    assert posteriors.make(piece) is piece
