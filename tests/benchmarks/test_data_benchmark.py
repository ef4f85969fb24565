"""The benchmark of data gives its rows."""

import json

import pytest
from layouts import real

from layerparallel.cli import main


def test_rows(capsys):
    real("cifar-10-batches-py")
    assert main(["bench", "data", "--json", "--rounds", "1"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["case"] for row in rows] == ["augmented batch of 128", "CIFAR-10, files to first batch"]
    for row in rows:
        assert row["ratio"] == pytest.approx(row["baseline_ms"] / row["ours_ms"])
    assert rows[0]["share"] < 0.1
    assert rows[1]["ratio"] > 0.02  # of reading alone; it is about 0.1
