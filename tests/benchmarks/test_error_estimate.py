"""The study of estimated errors, small."""

import json

from scripts import printed, script

run = script("benchmarks", "error_estimate", "run.py")


def test_the_estimate_is_within_a_factor_of_3_where_the_residual_is_not():
    rows = json.loads(printed(run.main, ["--chains", "16", "--seed", "3", "--json"]))
    assert len({row["case"] for row in rows}) == len(rows) == 32
    assert {row["kind"] for row in rows} == set(run.KINDS)
    assert run.within(rows) >= 0.9
    assert run.within(rows, "residual") < 0.5
    apart = [row for row in rows if 1e-9 < row["relative_error"] < 0.3]
    assert len(apart) > 10
    assert run.within(apart) >= 0.9


def test_the_table_has_all_kinds():
    table = printed(run.main, ["--chains", "4"])
    assert all(kind in table for kind in (*run.KINDS, "one cycle", "all"))
