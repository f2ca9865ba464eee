"""Shapes: each factor is read off the images again, by the moments of what is covered."""

import math

import numpy as np
import pytest
import torch

from pyrovae import datasets
from pyrovae.pipeline.prepare import Run, shuffled_test

# Of a box of width w and height h: area / wh, variance across / w^2, and down / h^2. The triangle is isosceles.
SHAPES = {
    "rectangle": (1, 1 / 12, 1 / 12),
    "ellipse": (math.pi / 4, 1 / 16, 1 / 16),
    "triangle": (1 / 2, 1 / 24, 1 / 18),
}


def moments(images):
    """Area, means and variances of the pixels that are covered, across and down, from the middle of the image."""
    grey, at = images[:, 0].double().numpy(), np.arange(28) - 13.5
    area = grey.sum((1, 2))
    across, down = grey.sum(1) / area[:, None], grey.sum(2) / area[:, None]
    means = across @ at, down @ at
    # A pixel spreads what it covers over its own square, of variance 1/12.
    variances = (share @ at**2 - mean**2 - 1 / 12 for share, mean in zip((across, down), means, strict=True))
    return area, *means, *variances


def test_every_factor_can_be_read_off_an_image():
    images, factors = datasets.shapes()
    area, x, y, across, down = moments(images)
    # Of a triangle 10.39, of a rectangle 12, of an ellipse 12.57, and up to .3 off by the pixels of the smallest.
    roundness = area / np.sqrt(across * down)
    shape = factors["shape"].to_numpy().astype(str)
    assert (np.array(["triangle", "rectangle", "ellipse"])[np.digitize(roundness, [11.2, 12.4])] == shape).all()
    share, a, b = np.array([SHAPES[name] for name in shape]).T
    width, height = np.sqrt(across / a), np.sqrt(down / b)
    np.testing.assert_allclose(x, factors["x"], atol=1e-9)
    np.testing.assert_allclose(y - (shape == "triangle") * height / 6, factors["y"], atol=0.01)
    np.testing.assert_allclose(np.sqrt(width * height), factors["size"], atol=0.1)
    np.testing.assert_allclose(np.log2(width / height), factors["stretch"], atol=0.03)
    np.testing.assert_allclose(area, share * width * height, rtol=0.03)


def test_the_grid_is_full_and_its_images_differ():
    images, factors = datasets.shapes()
    levels = [3, 10, 10, 5, 5]
    assert factors.nunique().tolist() == levels and len(factors) == math.prod(levels) == len(factors.drop_duplicates())
    assert images.shape == (7500, 1, 28, 28) and images.dtype == torch.float32
    assert len(np.unique(images.flatten(1).numpy(), axis=0)) == 7500
    assert images.min() == 0 and images.max() == 1
    edges = images.clone()
    edges[..., 1:-1, 1:-1] = 0
    assert edges.max() < 1, "no shape reaches over the edge"


def test_rows_follow_the_seed():
    (a, first), (b, again), (c, other) = (datasets.shapes(50, seed) for seed in (3, 3, 4))
    assert torch.equal(a, b) and first.equals(again) and not torch.equal(a, c) and not first.equals(other)
    assert len(a) == len(first.drop_duplicates()) == 50
    for n in (0, 7501, 2.5):
        with pytest.raises(ValueError, match="^n: expected"):
            datasets.shapes(n)


def whose(factors):
    return factors.to_numpy().tolist()


def test_factors_stay_with_their_images():
    images, factors = datasets.shapes(seed=1)
    image_of = {tuple(row): image for row, image in zip(whose(factors), images, strict=True)}
    grey = datasets.load("shapes", seed=1, binarize="none")
    mixed, _ = shuffled_test(grey, Run("shapes"), rows=100)
    assert len(mixed.test_factors) == 100 and whose(mixed.test_factors) != whose(grey.test_factors)[:100]
    for data in (grey, mixed):
        for part in ("train", "validation", "test"):
            rows, labels = getattr(data, part), getattr(data, f"{part}_labels")
            known = getattr(data, f"{part}_factors")
            assert torch.equal(rows, torch.stack([image_of[tuple(row)] for row in whose(known)]))
            assert [data.label_names[label] for label in labels] == known["shape"].tolist()
    assert datasets.load("shapes", seed=1).train_factors.equals(grey.train_factors)
    assert datasets.load("iris").train_factors is None
