"""The benchmark on the authors' problem: its data, its two forms of the objective, its rows."""

import json
import os
from pathlib import Path

import pytest
import torch
from scripts import script

import layerparallel as lp

run = script("benchmarks", "authors_problem", "run.py")


def test_generated_points_are_balanced():
    data = run.generated()
    assert data.train_x.shape == (5000, 2)
    assert data.validation_x.shape == (200, 2)
    assert data.train_y.bincount().tolist() == [1000] * 5
    assert data.validation_y.bincount().tolist() == [40] * 5
    assert data.train_x.abs().max() <= 3
    assert torch.equal(run.bands(data.train_x), data.train_y)


def test_bands_are_the_classes_of_the_published_points():
    folder = os.environ.get("LAYERPARALLEL_DATA")
    if not folder or not (Path(folder) / "level-sets").is_dir():
        pytest.skip("LAYERPARALLEL_DATA has no level-sets")
    data, source = run.points()
    assert source == "the authors'"
    assert data.train_x.shape == (5000, 2)
    for x, y in ((data.train_x, data.train_y), (data.validation_x, data.validation_y)):
        assert (run.bands(x) == y).double().mean() > 0.998  # some lie on an edge: 1/255 grid


def test_baseline_minimises_the_same_objective():
    """From the same weights both trainings take the same steps, but for rounding."""
    data = run.generated()
    twin = run.plain(run.network(0, lp.Serial()).to_serial(), data, 4)
    ours = run.ours(run.network(0, lp.Serial()), data, 4)
    assert twin.objective == pytest.approx(ours.objective, rel=1e-4)
    assert twin.evaluations == ours.evaluations


def test_rows(capsys):
    run.main(["--steps", "2", "--seeds", "1", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == len(run.SOLVERS)
    needed = {"case", "threads", "baseline", "baseline_ms", "ours_ms", "ratio", "solver"}
    for row in rows:
        assert needed <= set(row)
        assert row["ratio"] == pytest.approx(row["baseline_ms"] / row["ours_ms"])
        assert row["relative_error"] < 0.1
        assert row["cosine"] > 0.99
    assert rows[0]["relative_error"] < 1e-4


@pytest.mark.parametrize("option", ["--seeds", "--steps", "--threads"])
def test_options_out_of_range(option, capsys):
    with pytest.raises(SystemExit):
        run.main([option, "0"])
    assert "give 1 or more" in capsys.readouterr().err
