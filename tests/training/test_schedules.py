import math

import pytest

from pyrovae.training import schedules
from pyrovae.training.schedules import kl_weight

EPOCHS = 40


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("constant", lambda e: 1.0),
        ("linear", lambda e: (EPOCHS - e) / EPOCHS),
        ("cosine", lambda e: math.cos(math.pi * e / (2 * EPOCHS)) ** 2),  # the half-angle form of (1 + cos) / 2
        ("exponential", lambda e: math.exp(e * math.log(0.98))),
        ("exponential(rate=0.5)", lambda e: 2.0**-e),
    ],
)
def test_schedules(name, formula):
    schedule = schedules.make(name)
    got = [schedule(e, EPOCHS) for e in range(EPOCHS)]
    assert got == pytest.approx([formula(e) for e in range(EPOCHS)], rel=1e-12)
    assert got[0] == 1 and min(got) > 0


def test_a_schedule_of_the_users():
    def mine(epoch, epochs):
        return 0.5

    assert schedules.make(mine) is mine
    with pytest.raises(ValueError, match="unknown schedule 'cosin'.*Did you mean 'cosine'"):
        schedules.make("cosin")


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 4.0])
def test_kl_weight(beta):
    assert [kl_weight(beta, 0, e) for e in (0, 0.3, 7)] == [beta] * 3
    assert [kl_weight(beta, 4, e) for e in (0, 1, 2.5, 4, 9)] == [0, beta / 4, beta * 0.625, beta, beta]
    assert kl_weight(beta, 0.5, 0.25) == beta / 2
