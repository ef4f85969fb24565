"""The generated data sets: formula, balance, reproducibility."""

import math
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from layerparallel.data import level_sets as ls


def test_peaks_equals_the_published_formula_at_points_done_by_hand():
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
    expected = [
        3 * math.exp(-1) - math.exp(-1) / 3,
        8 * math.exp(-1) - math.exp(-4) / 3,
        3 - 10 * math.exp(-1) - math.exp(-2) / 3,
    ]
    assert ls.peaks(points).tolist() == pytest.approx(expected, rel=1e-12)


def test_thresholds_part_the_square_into_equal_areas():
    # A grid that shares no point with the one the thresholds come from.
    areas = ls.classify(ls.grid(701)).flatten().bincount(minlength=ls.CLASSES) / 701**2
    assert areas.tolist() == pytest.approx([0.2] * 5, abs=2e-3)


def test_the_set_has_the_size_range_and_balance_of_the_literature():
    data = ls.level_sets(seed=3)
    assert data.train_x.shape == (5000, 2)
    assert data.validation_x.shape == (200, 2)
    assert data.train_x.dtype == torch.float32
    assert data.train_y.dtype == torch.int64
    assert data.train_x.abs().max() <= 3
    assert data.train_x.abs().max() > 2.9
    shares = data.train_y.bincount(minlength=5) / 5000
    assert shares.tolist() == pytest.approx([0.2] * 5, abs=0.025)


def test_the_same_seed_gives_the_same_points_and_another_seed_others():
    first, again, other = ls.level_sets(seed=1), ls.level_sets(seed=1), ls.level_sets(seed=2)
    assert torch.equal(first.train_x, again.train_x)
    assert torch.equal(first.validation_y, again.validation_y)
    assert not torch.equal(first.train_x, other.train_x)


def test_float32_is_the_rounded_float64_set():
    single, double = ls.level_sets(seed=5), ls.level_sets(seed=5, dtype=torch.float64)
    assert torch.equal(single.train_x, double.train_x.float())
    assert torch.equal(single.train_y, double.train_y)


@pytest.mark.parametrize("sizes", [{"training": 0}, {"validation": -3}])
def test_no_points_is_refused(sizes):
    with pytest.raises(ValueError, match="give at least 1"):
        ls.level_sets(**sizes)


@pytest.mark.skipif("LAYERPARALLEL_DATA" not in os.environ, reason="needs LAYERPARALLEL_DATA")
def test_the_published_points_are_level_sets_of_the_same_surface():
    folder = Path(os.environ["LAYERPARALLEL_DATA"]) / "level-sets"
    points = torch.from_numpy(np.loadtxt(folder / "features_training.dat"))
    classes = torch.from_numpy(np.loadtxt(folder / "labels_training.dat")).argmax(1)
    heights = ls.peaks(points)
    # Their bands are equal in height, ours in area: both are bands of one surface.
    bands = [(heights[classes == k].min(), heights[classes == k].max()) for k in range(5)]
    for (_, top), (bottom, _) in pairwise(bands):
        assert top < bottom
