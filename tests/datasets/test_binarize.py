"""Grey to binary: what is drawn, when, and what stays as it was."""

from dataclasses import replace

import pytest
import torch
from torch.distributions import constraints

from pyrovae.datasets import Dataset, binarize, load
from pyrovae.datasets.binarize import draw


@pytest.fixture
def grey():
    return load("digits", binarize="none")


def splits(data):
    return {part: getattr(data, part) for part in ("train", "validation", "test")}


def is_binary(x):
    return bool(((x == 0) | (x == 1)).all())


def test_dynamic_is_the_default_of_grey_images_only():
    data = load("digits")
    assert data.support is constraints.boolean and data.transform is not None and not is_binary(data.train)
    assert load("iris").transform is None


def test_none(grey):
    assert grey.support is constraints.unit_interval and grey.transform is None
    assert not any(is_binary(x) for x in splits(grey).values())


def test_static_is_one_draw_of_every_pixel(grey):
    data = binarize(grey, "static", seed=1)
    assert data.support is constraints.boolean and data.transform is None
    for part, x in splits(data).items():
        p = getattr(grey, part).double()
        assert is_binary(x) and x.dtype == torch.float32
        assert bool((x[p == 0] == 0).all()) and bool((x[p == 1] == 1).all())
        # Over all pixels the sum of the draws is normal with the variance of the Bernoullis.
        assert abs((x.double() - p).sum() / (p * (1 - p)).sum().sqrt()) < 4


def test_static_repeats_by_seed_and_differs_between_seeds_and_parts(grey):
    a, b, c = (binarize(grey, "static", seed=s) for s in (1, 1, 2))
    for part in splits(a):
        assert torch.equal(getattr(a, part), getattr(b, part))
        assert not torch.equal(getattr(a, part), getattr(c, part))
    half = Dataset("half", *[torch.full((5, 1, 8, 8), 0.5)] * 3, constraints.unit_interval)
    drawn = list(splits(binarize(half, "static")).values())
    assert not any(torch.equal(x, y) for x, y in ((drawn[0], drawn[1]), (drawn[1], drawn[2]), (drawn[0], drawn[2])))


def test_dynamic_keeps_train_grey_and_holds_validation_and_test_fixed(grey):
    before = grey.train.clone()
    data = binarize(grey, "dynamic", seed=1)
    rng = torch.Generator().manual_seed(0)
    first, second = (data.transform(data.train[:32], rng) for _ in range(2))
    assert is_binary(first) and not torch.equal(first, second)
    assert torch.equal(data.train, before)
    fixed = binarize(grey, "static", seed=1)
    assert torch.equal(data.validation, fixed.validation) and torch.equal(data.test, fixed.test)
    again = data.transform(data.train[:32], torch.Generator().manual_seed(0))
    assert torch.equal(first, again)


def test_dynamic_draws_have_the_grey_value_as_their_mean(grey):
    p, n = grey.train[:8].double(), 4_000
    rng = torch.Generator().manual_seed(3)
    transform = binarize(grey, "dynamic").transform
    mean = sum(transform(grey.train[:8], rng).double() for _ in range(n)) / n
    sure = (p == 0) | (p == 1)
    assert torch.equal(mean[sure], p[sure])
    score = (mean - p)[~sure] / (p * (1 - p) / n).sqrt()[~sure]
    assert len(score) > 100 and score.abs().max() < 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_draw_of_a_cuda_batch_with_a_generator_of_either_device(device):
    p = torch.full((10_000,), 0.3, device="cuda")
    x = draw(p, torch.Generator(device=device).manual_seed(0))
    assert x.device == p.device and is_binary(x)
    assert abs(x.mean().item() - 0.3) < 4 * (0.21 / 10_000) ** 0.5


def test_threshold():
    x = torch.tensor([[0.0, 0.5, 0.500001, 1.0]])
    data = binarize(Dataset("grey", x, x, x, constraints.unit_interval), "threshold")
    assert data.support is constraints.boolean and data.transform is None
    for part in splits(data).values():
        assert part.tolist() == [[0, 0, 1, 1]]


def test_labels_and_names_stay(grey):
    for mode in ("static", "dynamic", "threshold"):
        data = binarize(grey, mode)
        assert torch.equal(data.train_labels, grey.train_labels) and data.label_names == grey.label_names


@pytest.mark.parametrize("mode", ["static", "dynamic", "threshold"])
@pytest.mark.parametrize(("support", "words"), [(constraints.boolean, "0 or 1"), (constraints.real, "a finite number")])
def test_not_grey(grey, mode, support, words):
    data = replace(grey, support=support)
    assert binarize(data, "none") is data
    with pytest.raises(ValueError) as error:
        binarize(data, mode)
    assert str(error.value) == (
        f"digits: binarize={mode!r} is for grey values from 0 to 1, and each value here is {words}. "
        "Use binarize='none'."
    )


def test_unknown_mode(grey):
    expected = (
        "unknown binarize mode 'statik': expected one of dynamic, none, static, threshold. Did you mean 'static'?"
    )
    for call in (lambda: binarize(grey, "statik"), lambda: load("mnist", root="nowhere", binarize="statik")):
        with pytest.raises(ValueError) as error:
            call()
        assert str(error.value) == expected
