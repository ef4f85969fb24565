"""The benchmark of seven kinds of model: all ways compute the same, and the table says who loses."""

import json

import pytest
import torch
from scripts import script

import layerparallel as lp

run = script("benchmarks", "your_model", "run.py")
DEPTHS = {"transformer": 2, "resnet": 20}


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch):
    """Compiled blocks without a compiler; it takes half a minute."""
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)


@pytest.mark.parametrize("make", run.MODELS, ids=lambda make: make.__name__)
def test_all_ways_give_the_gradient_of_plain_pytorch(make):
    model = make(DEPTHS.get(make.__name__, 20))
    exact = run._by(model.net, lp.Serial(), run.gradient_of(model.net, model.x, model.y))
    run.agree(model, exact)


def test_another_gradient_is_refused():
    model = run.MODELS[0](8)

    def wrong() -> None:
        run.gradient_of(model.plain, 2 * model.x, model.y)()

    model.instead["wrong"] = wrong
    with pytest.raises(RuntimeError, match="the gradient by wrong differs by"):
        run.agree(model, run.gradient_of(model.net, model.x, model.y))


def test_a_row_its_table_and_its_picture(tmp_path, capsys):
    row = run.measure(run.MODELS[0](64), 1)
    assert row["relative_error"] <= run.ERROR
    assert row["ratio_exact"] == pytest.approx(row["baseline_ms"] / row["exact_ms"])
    won = row | {"exact_ms": row["baseline_ms"] / 2}
    lost = row | {"exact_ms": 2 * row["baseline_ms"], "multigrid_ms": None}
    (tmp_path / "rows.json").write_text(json.dumps([won, lost]))
    flags = ["--rows", str(tmp_path / "rows.json"), "--plot", str(tmp_path / "rows.png")]
    assert run.main(flags) == 0
    first, second = capsys.readouterr().out.strip().splitlines()[2:]
    assert first.split("|")[3].strip() == "2.0×"
    assert "0.50×, loses | no setting" in second
    assert (tmp_path / "rows.png").stat().st_size > 1000
