"""Bad data and conditions are refused before the first step, in words, and also under ``python -O``."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch.distributions import constraints

import pyrovae
from pyrovae import VAE, fit
from pyrovae.checks import as_rows, check_values, trusted, words

GOOD = (torch.rand(6, 3, generator=torch.Generator().manual_seed(0)) > 0.5).float()
CONDITION = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))


def _step(vae, x, c=None):
    SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(x, c)


ENTRIES = {
    "model": lambda vae, x, c=None: vae.model(x, c),
    "model with size": lambda vae, x, c=None: vae.model(x, c, size=1000),
    "guide": lambda vae, x, c=None: vae.guide(x, c),
    "encode": lambda vae, x, c=None: vae.encode(x, c),
    "reconstruct": lambda vae, x, c=None: vae.reconstruct(x, c),
    "interpolate from": lambda vae, x, c=None: vae.interpolate(x, GOOD.reshape(6, *vae.event_shape), condition=c),
    "interpolate to": lambda vae, x, c=None: vae.interpolate(GOOD.reshape(6, *vae.event_shape), x, condition=c),
    "svi": _step,
    "fit": lambda vae, x, c=None: fit(vae, x, c, epochs=1, progress=False),
}
DATA_ENTRIES = ENTRIES | {
    "initialize": lambda vae, x: vae.initialize(x),
    "check": lambda vae, x: vae.check(x),
    "fit, validation": lambda vae, x: fit(
        vae, GOOD.reshape(6, *vae.event_shape), validation=x, epochs=1, progress=False
    ),
}


@pytest.fixture
def make(tiny):
    return lambda **k: tiny(**{"likelihood": "bernoulli", **k})


def refuse(call, vae, *patterns):
    """The call raises a ValueError that matches all patterns, moves nothing and leaves the store alone."""
    before = {key: value.clone() for key, value in vae.state_dict().items()}
    with pytest.raises(ValueError) as caught:
        call()
    for pattern in patterns:
        assert pattern in str(caught.value), str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in vae.state_dict().items())


def spoiled(value, row=4, column=1, like=GOOD):
    x = like.clone()
    x[row, column] = value
    return x


VALUES = {
    "two": (2.0, "expected 0 or 1 (Bernoulli), got 2 at row 4, column 1 (1 of 18 values"),
    "half": (0.5, "expected 0 or 1 (Bernoulli), got 0.5 at row 4, column 1 (1 of 18 values"),
    "minus": (-1.0, "expected 0 or 1 (Bernoulli), got -1 at row 4, column 1 (1 of 18 values"),
    "nan": (
        torch.nan,
        "got nan at row 4, column 1 (1 of 18 values are outside). Fill in or drop missing values first, or "
        "integrate them out: VAE(..., missing='mask').",
    ),
    "inf": (torch.inf, "got inf at row 4, column 1"),
    "-inf": (-torch.inf, "got -inf at row 4, column 1"),
}


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("entry", DATA_ENTRIES)
def test_values_outside_the_support(make, entry, value):
    vae = make()
    number, text = VALUES[value]
    refuse(lambda: DATA_ENTRIES[entry](vae, spoiled(number)), vae, "x: expected 0 or 1", text)


SUPPORTS = [
    ("bernoulli", 0.25, "0 or 1 (Bernoulli)", "Binarize"),
    ("continuous_bernoulli", 1.5, "a number from 0 to 1 (ContinuousBernoulli)", "Divide 8-bit pixels by 255"),
    ("continuous_bernoulli", -0.5, "a number from 0 to 1 (ContinuousBernoulli)", "Divide 8-bit pixels by 255"),
    ("gaussian", torch.inf, "a finite number (Gaussian)", ""),
    ("gaussian", torch.nan, "a finite number (Gaussian)", "integrate them out: VAE(..., missing='mask')."),
]


@pytest.mark.parametrize("entry", ["model", "svi", "fit", "encode"])
@pytest.mark.parametrize(("likelihood", "value", "expected", "remedy"), SUPPORTS)
def test_each_likelihood_says_what_it_takes(tiny, entry, likelihood, value, expected, remedy):
    vae = tiny(likelihood=likelihood)
    call = lambda: ENTRIES[entry](vae, spoiled(value, 5, 2))  # noqa: E731
    refuse(call, vae, f"x: expected {expected}, got {value:g} at row 5, column 2", remedy)


@pytest.mark.filterwarnings("ignore:a relaxed Bernoulli")
def test_a_relaxed_bernoulli_takes_grey_pixels_and_nothing_else(tiny):
    vae = tiny(likelihood="bernoulli(relaxed=True)")
    _step(vae, spoiled(0.5))
    refuse(lambda: _step(vae, spoiled(1.5)), vae, "a number from 0 to 1 (Bernoulli), got 1.5 at row 4, column 1")


@pytest.mark.parametrize("entry", DATA_ENTRIES)
def test_the_place_in_an_image_has_three_numbers(make, entry):
    vae = make(event_shape=(1, 1, 3))
    x = spoiled(7.0).reshape(6, 1, 1, 3)
    refuse(lambda: DATA_ENTRIES[entry](vae, x), vae, "got 7 at row 4, column (0, 0, 1)")


def test_the_first_place_and_the_count_of_all(make):
    x = spoiled(7.0)
    x[5, 0] = x[2, 2] = 9.0
    refuse(lambda: make().check(x), make(), "got 9 at row 2, column 2 (3 of 18 values are outside)")


def test_a_columns_name_where_it_is_known(make):
    refuse(lambda: make().check(spoiled(3.0), columns=["a", "b", "c"]), make(), "got 3 at row 4, column 'b'")


SHAPES = {
    "columns": (GOOD[:, :2], ["x: expected shape (N, 3), got (6, 2)", "one value for each element"]),
    "a single row": (GOOD[0], ["expected shape (N, 3), got (3,)", "x[None]"]),
    "a number": (torch.tensor(1.0), ["expected shape (N, 3), got ()"]),
    "one dimension more": (GOOD[:, None], ["got (6, 1, 3)", "x.reshape(-1, 3)"]),
    "no rows": (GOOD[:0], ["expected at least one row, got none (shape (0, 3))"]),
    "no columns": (GOOD[:, :0], ["expected shape (N, 3), got (6, 0)"]),
    "complex": (GOOD + 0j, ["expected real numbers", "complex64"]),
    "strings": (np.array([["a", "b", "c"]]), ["expected numbers of shape (N, 3), got ndarray", "Encode text"]),
    "objects": (np.array([[1, None, "x"]], dtype=object), ["expected numbers of shape (N, 3), got ndarray"]),
    "dates": (np.array([["2020-01-01"] * 3], dtype="datetime64[D]"), ["expected numbers of shape (N, 3)"]),
    "a list of words": ([["a", "b", "c"]], ["expected numbers of shape (N, 3), got list"]),
    "a data set": (pyrovae.datasets.load("digits"), ["expected numbers of shape (N, 3), got Dataset", "data.train"]),
    "ragged": ([[1.0, 0.0, 1.0], [1.0]], ["expected numbers of shape (N, 3), got list"]),
    "a frame with text": (pd.DataFrame({"a": [1, 0], "b": [0, 1], "c": ["x", "y"]}), ["got DataFrame", "Encode text"]),
}


@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize("entry", DATA_ENTRIES)
def test_wrong_shapes_and_types(make, entry, case):
    vae = make()
    x, texts = SHAPES[case]
    refuse(lambda: DATA_ENTRIES[entry](vae, x), vae, "x: expected", *texts)


def test_an_image_without_its_channel(make):
    vae = make(event_shape=(1, 1, 3))
    refuse(lambda: vae.check(GOOD), vae, "expected shape (N, 1, 1, 3), got (6, 3)", "x.reshape(-1, 1, 1, 3)")
    assert vae.check(GOOD.reshape(-1, 1, 1, 3)).shape == (6, 1, 1, 3)


# What is accepted, and gives the same numbers

ACCEPTED = {
    "float64": GOOD.double(),
    "float16": GOOD.half(),
    "integer": GOOD.long(),
    "uint8": GOOD.byte(),
    "bool": GOOD.bool(),
    "numpy": GOOD.numpy(),
    "numpy float64": GOOD.double().numpy(),
    "numpy bool": GOOD.bool().numpy(),
    "numpy uint8": GOOD.byte().numpy(),
    "list": GOOD.tolist(),
    "frame": pd.DataFrame(GOOD.numpy(), columns=list("abc")),
    "integer frame": pd.DataFrame(GOOD.long().numpy()),
    "bool frame": pd.DataFrame(GOOD.bool().numpy()),
    "not contiguous": GOOD.T.contiguous().T,
}


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", ACCEPTED)
def test_kinds_of_data_give_the_same_numbers(make, kind, dtype):
    def numbers(x):
        torch.manual_seed(0)
        vae = make().to(dtype)
        values = [vae.model(x).double().sum(), vae.guide(x).double().sum(), vae.encode(x).mean.sum()]
        values += [torch.tensor(Trace_ELBO().loss(vae.model, vae.guide, x)), vae.reconstruct(x).sum()]
        history = fit(vae, x, validation=x, epochs=2, batch_size=4, progress=False)
        return values, history.drop(columns="seconds")

    got, history = numbers(ACCEPTED[kind])
    expected, expected_history = numbers(GOOD)
    if kind != "not contiguous":
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
        pd.testing.assert_frame_equal(history, expected_history, check_exact=True)
    else:
        # A product with a transposed matrix is summed in another order on some processors.
        rounding = 50 * torch.finfo(dtype).eps
        assert all(torch.allclose(a, b.to(a), rounding, rounding) for a, b in zip(got, expected, strict=True))
        pd.testing.assert_frame_equal(history, expected_history, rtol=rounding, atol=rounding)


def test_data_come_in_the_dtype_of_the_model(make):
    assert make().check(GOOD.double()).dtype == torch.float32
    assert make().double().check(GOOD).dtype == torch.float64
    assert as_rows(GOOD.double(), (3,)).dtype == torch.float64


# Conditions

CONDITIONS = {
    "missing": (None, ["condition: expected shape (B, 2), got None"]),
    "width": (CONDITION[:, :1], ["condition: expected shape (N, 2), got (6, 1)"]),
    "dimensions": (CONDITION[0], ["condition: expected shape (N, 2), got (2,)"]),
    "rows": (CONDITION[:5], ["condition: expected 6 rows, as x has, got 5"]),
    "no rows": (CONDITION[:0], ["condition: expected at least one row"]),
    "nan": (spoiled(torch.nan, 3, 1, CONDITION), ["condition: expected a finite number, got nan at row 3, column 1"]),
    "inf": (spoiled(torch.inf, 3, 0, CONDITION), ["condition: expected a finite number, got inf at row 3, column 0"]),
    "complex": (CONDITION + 0j, ["condition: expected real numbers"]),
    "strings": (np.array([["a", "b"]] * 6), ["condition: expected numbers of shape (N, 2)"]),
}


@pytest.mark.parametrize("case", CONDITIONS)
@pytest.mark.parametrize("entry", ENTRIES)
def test_wrong_conditions(make, entry, case):
    vae = make(condition_dim=2)
    condition, texts = CONDITIONS[case]
    refuse(lambda: ENTRIES[entry](vae, GOOD, condition), vae, *texts)


@pytest.mark.parametrize("case", CONDITIONS)
def test_wrong_conditions_of_sample_and_of_validation(make, case):
    vae = make(condition_dim=2)
    condition, texts = CONDITIONS[case]
    refuse(lambda: vae.sample(6, condition), vae, *texts)
    arguments = dict(validation=GOOD, validation_condition=condition, epochs=1, progress=False)
    refuse(lambda: fit(vae, GOOD, CONDITION, **arguments), vae, *texts)


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_unwanted_condition(make, entry):
    vae = make()
    refuse(lambda: ENTRIES[entry](vae, GOOD, CONDITION), vae, "condition: expected None", "condition_dim=0")


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_kinds_of_conditions_give_the_same_numbers(make):
    vae = make(condition_dim=2)
    expected = vae.encode(GOOD, CONDITION).mean
    for condition in (CONDITION.numpy(), CONDITION.double().numpy(), CONDITION.tolist(), pd.DataFrame(CONDITION)):
        assert torch.equal(vae.encode(GOOD, condition).mean, expected)
    single = vae.encode(GOOD, CONDITION[:1]).mean
    assert torch.equal(single, vae.encode(GOOD, CONDITION[:1].expand(6, 2)).mean)


@pytest.mark.parametrize("size", [5, 0, -1])
def test_a_size_below_the_number_of_rows(make, size):
    vae = make()
    for program in (vae.model, vae.guide):
        refuse(
            lambda program=program: program(GOOD, size=size),
            vae,
            f"size: expected at least the 6 rows of x, got {size}",
        )


@pytest.mark.parametrize("size", [0, -3, 2.5, True])
def test_a_size_without_data(make, size):
    vae = make()
    for program in (vae.model, vae.guide):
        refuse(lambda program=program: program(size=size), vae, "size: expected a whole number of at least 1, got")


# The checks themselves


@pytest.mark.parametrize(
    ("constraint", "text"),
    [
        (constraints.boolean, "0 or 1"),
        (constraints.unit_interval, "a number from 0 to 1"),
        (constraints.nonnegative_integer, "a whole number 0, 1, 2, ..."),
        (constraints.positive, "a number above 0"),
        (constraints.nonnegative, "a number of at least 0"),
        (constraints.real, "a finite number"),
        (constraints.integer_interval(0, 4), "a whole number from 0 to 4"),
        (constraints.interval(2.0, 3.0), "a value in Interval(lower_bound=2.0, upper_bound=3.0)"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_supports_in_words(constraint, text):
    assert words(constraint) == text


def test_trusted_values_are_not_looked_at_again_but_shapes_are(make):
    vae = make()
    with trusted():
        vae.check(spoiled(7.0))
        with pytest.raises(ValueError, match="expected shape"):
            vae.check(GOOD[:, :2])
        with pytest.raises(KeyError), trusted():
            raise KeyError
        vae.check(spoiled(7.0))
    with pytest.raises(ValueError, match="expected 0 or 1"):
        vae.check(spoiled(7.0))


def test_an_infinite_value_is_refused_whatever_the_support_says():
    assert constraints.positive.check(torch.tensor(torch.inf))
    with pytest.raises(ValueError, match="a number above 0, got inf at row 0, column 1"):
        check_values(torch.tensor([[1.0, torch.inf]]), constraints.positive)


OPTIMIZED = """
import sys
import pyro, torch
from pyro.infer import SVI, Trace_ELBO
from pyrovae import VAE, fit

assert False, "asserts are off here"
x, c = torch.ones(6, 3), torch.zeros(6, 2)
bad, missing = x.clone(), x.clone()
bad[4, 1], missing[2, 0] = 2.0, float("nan")
vae, conditional = VAE((3,), 2), VAE((3,), 2, condition_dim=2)


def step(model, *data):
    SVI(model.model, model.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(*data)


cases = [("x: expected 0 or 1 (Bernoulli), got 2 at row 4, column 1", vae, (bad,))]
cases += [("got nan at row 2, column 0", vae, (missing,)), ("expected shape (N, 3), got (6, 2)", vae, (x[:, :2],))]
cases += [("expected at least one row", vae, (x[:0],)), ("expected real numbers", vae, (x + 0j,))]
cases += [("expected shape (B, 2), got None", conditional, (x,)), ("expected None", vae, (x, c))]
cases += [("expected 6 rows", conditional, (x, c[:2])), ("a finite number, got nan", conditional, (x, c / 0))]
count = 0
for text, model, data in cases:
    entries = [model.model, model.guide, model.encode, model.reconstruct, lambda *d: step(model, *d)]
    entries += [lambda *d: fit(model, *d, epochs=1, progress=False)]
    for entry in entries:
        try:
            entry(*data)
        except ValueError as error:
            if text in str(error):
                count += 1
                continue
            raise
        sys.exit(f"no error: {text}")
print(count)
"""


def test_all_of_it_under_python_O():
    root = Path(pyrovae.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-O", "-c", OPTIMIZED], cwd=root, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(9 * 6)]


# Sizes and parts of the VAE itself


@pytest.mark.parametrize("shape", [(), 3, (0,), (3, -1), "ab", None])
def test_event_shapes_that_are_none(shape):
    with pytest.raises(ValueError, match="event_shape: expected one or more sizes"):
        VAE(shape, 2)


@pytest.mark.parametrize(("name", "value"), [("latent_dim", 0), ("latent_dim", 1.5), ("latent_dim", True)])
def test_sizes_that_are_none(name, value):
    with pytest.raises(ValueError, match=f"{name}: expected a whole number of at least 1, got {value}"):
        VAE((3,), value)


@pytest.mark.parametrize("value", [-1, 0.5, "2"])
def test_a_condition_dim_that_is_none(value):
    with pytest.raises(ValueError, match="condition_dim: expected a whole number of at least 0"):
        VAE((3,), 2, condition_dim=value)
