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


@pytest.mark.parametrize(("epochs", "cycles"), [(12, 1), (12, 3), (12, 12), (10, 3), (7, 6), (1, 1), (100, 7)])
def test_cycles_of_the_kl_weight(epochs, cycles):
    """Each equal part of the run is a copy of the first, with a rise over ``warmup`` epochs at its beginning."""
    part = epochs / cycles
    for warmup in (0.5 * part, part):
        for cycle in range(cycles):
            for share in (0.01, 0.2, 0.5, 0.9):
                weight = kl_weight(2.0, warmup, (cycle + share) * part, epochs=epochs, cycles=cycles)
                assert weight == pytest.approx(2 * min(1, share * part / warmup), rel=1e-9)
    starts = [e for e in range(epochs) if kl_weight(1.0, part, e, epochs=epochs, cycles=cycles) == 0]
    assert starts == [e for e in range(epochs) if e * cycles % epochs == 0]
    assert kl_weight(3.0, 0, 0.7 * part, epochs=epochs, cycles=cycles) == 3
