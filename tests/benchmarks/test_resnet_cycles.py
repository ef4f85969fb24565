"""The benchmark of cycles on residual networks: its rows, and what stands in its tables."""

import json

import pytest
from scripts import printed, script

import layerparallel as lp

run = script("benchmarks", "resnet_cycles", "run.py")


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return json.loads(printed(run.main, ["--quick", "--measured", "4", "--json"]))


def test_rows(rows):
    needed = {"case", "threads", "baseline", "baseline_ms", "ours_ms", "ratio", "relative_error"}
    assert all(needed <= set(row) for row in rows)
    assert len({row["case"] for row in rows}) == len(rows)
    assert len({row["weights"] for row in rows}) == 6
    assert {row["coarse"] for row in rows} == set(run.QUICK["preactivation-47"].coarse)


def test_the_last_cycle_is_exact_and_the_first_is_not(rows):
    last = [row for row in rows if row["terminates"]]
    assert last
    assert all(row["relative_error"] < 1e-9 and row["path"] > 1 for row in last)
    first = [row for row in rows if row["cycles"] == 1 and row["coarse"] == "inject"]
    assert all(row["relative_error"] > 1e-3 for row in first)


def test_small_branches_move_the_state_less(rows):
    moved = {row["weights"]: row["change"] for row in rows}
    assert moved["gain 1/sqrt(L), initial"] < moved["gain 1, initial"] / 2
    assert moved["gain 0, trained"] < 0.1


def test_summary_takes_the_last_cycle_that_is_shorter_than_serial(rows):
    some = [dict(row) for row in rows if row["weights"] == "gain 1, initial"]
    for row, path in zip(some, [0.5, 0.9, 0.7, 1.1, 1.2, 1.3, 0.6, 0.6], strict=True):
        row["path"], row["cosine"] = path, 0.5
    some[1]["cosine"] = 0.995
    line = run.summary(some).splitlines()[2]
    cells = [cell.strip() for cell in line.split("|")[3:-1]]
    assert cells == ["**2: 0.995**", "1: 0.500", "–", "2: 0.500"]


def test_path_of_one_cycle():
    """Four coarse steps, one interval of four, and the step that is in none."""
    solver = lp.MGRIT(coarsening=4, forward_cycles=1, coarse="mean_residual")
    assert run.path(solver, 17) == pytest.approx((4 + 4 + 1) / 17)
    assert run.path(lp.MGRIT(coarsening=4, forward_cycles=1, coarse="picard"), 17) == pytest.approx(
        (8 + 4 + 1) / 17
    )
