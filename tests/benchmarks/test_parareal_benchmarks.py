"""The benchmarks of parareal networks: two processes against one, and tables with marks."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from scripts import printed, script

from layerparallel.cli.runs import chosen_by
from layerparallel.errors import InputError
from layerparallel.runs import record

tables = script("benchmarks", "parareal_tables", "run.py")
speed = script("benchmarks", "parareal", "run.py")


def rows(*flags: str) -> list[dict[str, Any]]:
    return json.loads(printed(tables.main, ["--json", *flags]))


def written(runs: Path, count: int, accuracy: float, seed: int = 0, **other: Any) -> None:
    """A run of the small plan's MNIST that has ended."""
    row = next(each for each in tables.PLANS["small"][0].rows() if each.count == count)
    folder = record.new_folder(runs / row.folder(seed))
    with record.Record(folder) as file:
        file.append("start", options={**row.options(seed), **other})
        for epoch in (1, 2):
            file.append("epoch", phase=0, epoch=epoch, train_loss=1 / (epoch + count))
    record.write_summary(folder, {"validation_accuracy": accuracy})


# ---- the tables ---------------------------------------------------------------------------------


def test_what_was_not_run_says_so_beside_the_figures_that_were_published(tmp_path):
    found = rows("--runs", str(tmp_path))
    assert {row["accuracy_mark"] for row in found} == {"not run"}
    assert {row["speedup_mark"] for row in found} == {"not run", "-"}
    published = {row["table"]: row["published"] for row in found if row["published"]}
    assert published == {
        "ResNet-1001, CIFAR-10": pytest.approx(95.38),
        "ResNet-1001, CIFAR-100": pytest.approx(77.29),
    }
    deep = [row["case"] for row in found if row["table"] == "ResNet-1001, SVHN"]
    assert deep[1:5] == ["N = 3", "N = 6", "N = 12", "N = 18"]


def test_what_was_run_is_marked_as_measured_and_set_against_the_network_itself(tmp_path):
    for seed, accuracy in enumerate((0.97, 0.99)):
        written(tmp_path, 1, accuracy, seed)
    written(tmp_path, 2, 0.985)
    timed = [
        {
            "case": "parareal, N = 2, every",
            "depth": 110,
            "width": 8,
            "count": 2,
            "ratio": 1.7,
            "mark": "measured",
        },
        {
            "case": "parareal, N = 2, last",
            "depth": 110,
            "width": 8,
            "count": 2,
            "ratio": 1.1,
            "mark": "measured",
        },
        {
            "case": "parareal, N = 3, every",
            "depth": 110,
            "width": 8,
            "count": 3,
            "ratio": 2.2,
            "mark": "predicted",
        },
        {"case": "DDP", "depth": 110, "width": 8, "count": 2, "ratio": 1.9, "mark": "measured"},
    ]
    timed[0]["judged"] = False
    (tmp_path / "speed.json").write_text(json.dumps(timed))
    flags = ["--plan", "small", "--runs", str(tmp_path), "--speed", str(tmp_path / "speed.json")]
    one, two, three = rows(*flags)[:3]
    assert (one["accuracy"], one["seeds"]) == (pytest.approx(98), 2)
    assert two["points_over_serial"] == pytest.approx(0.5)
    assert (two["speedup"], two["speedup_mark"]) == (1.7, "measured (not judged)")
    assert (three["speedup"], three["speedup_mark"]) == (2.2, "predicted")
    assert three["accuracy_mark"] == "not run"
    text = printed(tables.main, flags)
    assert "98.00 measured (2 seeds, ±1.00)" in text
    picture = printed(tables.main, [*flags, "--plot", str(tmp_path / "figures")]).strip()
    assert Path(picture).stat().st_size > 1000


def test_a_run_of_other_options_is_refused(tmp_path):
    written(tmp_path, 2, 0.9, epochs=1)
    with pytest.raises(InputError, match="trained with epochs = 1, its row is of 5"):
        rows("--plan", "small", "--runs", str(tmp_path))


@pytest.mark.parametrize("text", [None, "no rows", "[]", "{}", "[1, 2]", '[{"name": "x"}]'])
def test_a_file_without_speeds_is_refused(text, tmp_path):
    path = tmp_path / "speed.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=r"write them by `layerparallel bench parareal --json > "):
        rows("--plan", "small", "--speed", str(path))


@pytest.mark.parametrize(
    ("flags", "says"),
    [(["--seeds", "0"], "--seeds 0 is below 1"), (["--runs", "nowhere"], "--runs nowhere is no folder")],
)
def test_flags_that_find_nothing_are_refused(flags, says, capsys):
    with pytest.raises(SystemExit):
        tables.main(["--plan", "small", *flags])
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("plan", ["small", "paper"])
def test_the_commands_are_ones_that_the_command_line_takes(plan, tmp_path):
    text = printed(tables.main, ["--plan", plan, "--commands", "--seeds", "1", "--runs", "R"])
    chosen = [row for each in tables.PLANS[plan] for row in each.rows()]
    for line, row in zip(text.splitlines(), chosen, strict=True):
        words = shlex.split(line)
        assert words[:2] == ["layerparallel", "train"]
        parsed, recipe = chosen_by(words[2:])
        recipe.check()
        assert parsed.run == Path("R") / row.folder(0)
        assert recipe.method == row.method


# ---- two processes ------------------------------------------------------------------------------


def test_the_prediction_counts_what_is_sent():
    case = speed.Case(14, 2, batch=4)
    found = speed.foreseen(case, [3], 1)[0]
    assert (found["mark"], found["count"]) == ("predicted", 3)
    assert found["ratio"] == pytest.approx(found["baseline_ms"] / found["ours_ms"])
    net = case.recipe("parareal", 3).parareal(case.data())
    x = torch.zeros(4, 3, 32, 32)
    begins = [net.prepared(j, x) for j in (1, 2, 3)]
    ends = [net.fine(j, begin) for j, begin in enumerate(begins, start=1)]
    states = [[ends[0]], [begins[1], ends[1]], [begins[2], ends[2]]]
    wanted = max(2 * sum(each.nbytes for each in own) for own in states)  # to two other ranks
    assert wanted <= found["bytes_sent"] <= wanted + 20_000  # and what is said beside
    network = case.recipe("serial").made(case.data())
    assert speed.shared_bytes(case, 2) == 4 * sum(p.numel() for p in network.parameters())


def test_two_processes_against_one():
    found = json.loads(printed(speed.main, ["--quick", "--json"]))
    assert [row["mark"] for row in found] == ["measured"] * 4 + ["predicted"] * 2
    for row in found:
        assert row["ours_ms"] > 0
        assert row["bytes_sent"] > 0
    for row in found[:4]:
        assert row["capacity"] > 0
        assert row["judged"] == (row["capacity"] >= 1.8)
    for row in found[:2]:
        expected = 100 * abs(row["predicted_ms"] - row["ours_ms"]) / row["ours_ms"]
        assert row["off_percent"] == pytest.approx(expected)
