"""What is shown of runs of parareal networks: what their parts cost, and what is corrected."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stage_images
import torch

from layerparallel import data, report
from layerparallel.recipes.parareal import MnistParareal
from layerparallel.report import parareal, story
from layerparallel.runs import record, train

TINY: dict[str, Any] = {"depth": 14, "width": 2, "batch": 20, "epochs": 3, "evaluate_every": 2}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of three subnetworks, and one of the network itself."""
    root, threads = tmp_path_factory.mktemp("runs"), torch.get_num_threads()
    found: list[Path] = []
    digits = stage_images.digits()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", lambda name: digits)
        for method in ("parareal", "serial"):
            recipe = MnistParareal(**TINY, method=method, subnetworks=3)
            train(recipe.build(), record.new_folder(root / method))
            found.append(root / method)
    torch.set_num_threads(threads)
    return found


def test_jumps_and_corrections_are_drawn_of_the_epochs_that_were_evaluated(runs):
    drawn = parareal.corrections([story.tell(runs[0])])
    lines = record.history(record.read(runs[0]), "epoch")
    there = [n for n, line in enumerate(lines) if "jumps" in line]
    assert drawn is not None
    assert there == [1, 2]  # every other epoch, and the last
    for curve, key in zip(drawn.curves, ("jumps", "corrections"), strict=True):
        assert curve.label == key
        np.testing.assert_array_equal(curve.x, [n + 1 for n in there])
        np.testing.assert_allclose(curve.y, [np.mean(lines[n][key]) for n in there])
    assert parareal.corrections([story.tell(runs[1])]) is None


def test_the_table_sums_what_the_parts_cost(runs):
    told = [story.tell(run) for run in runs]
    found = parareal.table(told)
    assert found is not None
    rows = {name: cells for name, *cells in found.rows}
    torch.manual_seed(0)
    parts = {
        part.name: part
        for part in MnistParareal(**TINY, subnetworks=3).parareal(stage_images.digits()).describe()
    }
    assert rows["subnetworks"] == ["3", "–"]
    assert rows["processes"] == ["one, its subnetworks in turn", "–"]
    coarse = parts["F^1"].parameters + parts["F^2"].parameters
    assert rows["of the coarse network"] == [f"{coarse:,}", "–"]
    each = [parts[f"C^{j}"].operations + parts[f"g^{j}"].operations for j in (1, 2, 3)]
    assert rows["operations of a sample, of the subnetworks"] == [f"{sum(each):,}", "–"]
    assert rows["of the costliest of them"] == [f"{max(each):,}", "–"]
    last = record.history(record.read(runs[0]), "epoch")[-1]
    jumps = ", ".join(f"{value:.3g}" for value in last["jumps"])
    assert rows["jumps at the end, by interface"] == [jumps, "–"]
    assert parareal.table(told[1:]) is None


def test_the_page_has_them_and_a_picture_beside(runs):
    pictures = {path.name for run in runs for path in report.plots(run)}
    assert pictures == {"training.png", "corrections.png"}
    page = report.render(runs)
    assert "Subnetworks and the coarse network" in page
    assert "What the coarse network corrects" in page
    assert "Subnetworks and the coarse network" not in report.render(runs[1:])
