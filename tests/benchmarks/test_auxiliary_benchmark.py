"""The benchmarks of auxiliary variables: published tables beside ours, two processes against one."""

import json
import shlex
import sys
from pathlib import Path

import pytest
from scripts import printed, script

from layerparallel.cli.runs import chosen_by
from layerparallel.errors import InputError
from layerparallel.recipes.cifar import Cifar10
from layerparallel.recipes.mnist_vae import MnistVae
from layerparallel.runs import record

RECIPES = {"cifar10": Cifar10, "mnist-vae": MnistVae}


sun, auxiliary = (
    script("benchmarks", "sun_tables", "run.py"),
    script("benchmarks", "auxiliary", "run.py"),
)


# ---- the tables ---------------------------------------------------------------------------------


def rows(*flags: str) -> dict[str, dict]:
    found = json.loads(printed(sun.main, ["--plan", "small", "--table", "1", "--json", *flags]))
    return {row["case"]: row for row in found}


def test_what_was_not_run_says_so(tmp_path):
    found = rows("--runs", str(tmp_path))
    assert len(found) == 18 + 2  # and serial training cut short
    for row in found.values():
        assert row["our_score"] is None
        assert row["score_mark"] == "not run"
    ours = found["DS-SPH-P (K = 2, 1:4)"]
    assert (ours["paper_speedup"], ours["paper_score"]) == (1.38, 91.8)
    assert ours["equation_11"] == pytest.approx(1.38, abs=0.02)
    assert ours["memory_mark"] == "predicted"
    whole = found["AL (K = 2)"]["our_memory"]
    assert whole == pytest.approx(2 * 4 * 4 * ours["our_memory"], rel=0.01)  # AL, pooled, int8
    assert found["Serial with DA, 20% of the epochs"]["our_speedup"] == pytest.approx(5)


def test_table_5_has_test_losses_and_what_they_are_over_that_of_serial_training(tmp_path):
    plan = sun.PLANS["small"][5]
    flags = ["--plan", "small", "--table", "5", "--runs", str(tmp_path)]
    found = json.loads(printed(sun.main, [*flags, "--json"]))
    assert [row["paper_score"] for row in found] == [0.126, 0.149, 0.129, 0.160, 0.137, 0.127, 0.128]
    assert {row["score_mark"] for row in found} == {"not run"}
    assert [row["paper_over_serial"] for row in found][-1] == pytest.approx(1.016, abs=1e-3)
    assert {row["our_over_serial"] for row in found} == {None}
    assert found[2]["our_memory"] == pytest.approx(4 * 4 * found[4]["our_memory"], rel=0.02)
    for _, row in sun.plans.rows("small", 5):
        if row.label in ("Serial w/o DA", "DS-SPH-AL (K = 3, 1:4)"):
            folder = record.new_folder(tmp_path / sun.plans.folder(plan, row, 0))
            with record.Record(folder) as written:
                written.append("start", options=plan.of(row, 0))
            record.write_summary(folder, {"validation_loss": 100.0 if row.stages == 1 else 103.0})
    found = json.loads(printed(sun.main, [*flags, "--json"]))
    assert (found[0]["our_score"], found[-1]["our_over_serial"]) == (100.0, 1.03)
    line = printed(sun.main, flags).splitlines()[-2]
    assert line.endswith("| 0.128 | 103.000 measured (1 seed) | 1.80 | 1.80 | not run | 1.016 | 1.030 |")


@pytest.mark.parametrize("plan", ["paper", "small"])
def test_every_row_is_trained_once_by_a_command_of_its_own(plan):
    flags = ["--plan", plan, "--commands", "--seeds", "2"]
    commands = [shlex.split(line) for line in printed(sun.main, flags).splitlines()]
    assert len({tuple(words) for words in commands}) == len(commands)
    folders = [words[-1] for words in commands]
    assert len(set(folders)) == len(folders)
    for words in commands:
        assert words[:2] == ["layerparallel", "train"]
        if words[2] in RECIPES:
            chosen, recipe = chosen_by(words[2:])
            recipe.check()
            assert chosen.run == Path(words[-1])


def test_accuracies_are_those_of_the_runs_with_the_options_of_the_row(tmp_path):
    plan = sun.PLANS["small"][1]
    row = next(row for _, row in sun.plans.rows("small", 1) if row.label == "DS-AL (K = 2)")
    for seed, accuracy in enumerate((0.5, 0.7)):
        folder = record.new_folder(tmp_path / sun.plans.folder(plan, row, seed))
        with record.Record(folder) as written:
            written.append("start", options=plan.of(row, seed))
        record.write_summary(folder, {"validation_accuracy": accuracy})
    found = rows("--runs", str(tmp_path))[row.label]
    assert found["our_score"] == pytest.approx(60)
    assert found["score_mark"] == "measured (2 seeds, ±10.00)"
    path = tmp_path / sun.plans.folder(plan, row, 1) / record.RECORD
    line = json.loads(path.read_text())
    line["options"]["epochs"] = 1
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(InputError, match="trained with epochs = 1, its row is of 10"):
        rows("--runs", str(tmp_path))


def test_speed_ups_are_predicted_from_times_and_measured_by_two_processes(tmp_path):
    times, speed = tmp_path / "times.json", tmp_path / "speed.json"
    one = {"device": "none", "stages": 3, "propagation": 90.0, "loading": 10.0, "coupling": 20.0}
    times.write_text(
        json.dumps({"cifar10 resnet-20, K = 3, penalty, downsampled": {**one, "heaviest": 0.5}})
    )
    measured = {"case": "AL (K = 2)", "depth": 20, "ratio": 1.5, "judged": True}
    other = {"case": "DS-AL (K = 2)", "depth": 110, "ratio": 1.5, "judged": True}
    speed.write_text(json.dumps([measured, other]))
    found = rows("--runs", str(tmp_path), "--times", str(times), "--speed", str(speed))
    parallel = 100 / (45 + 20)
    assert found["DS-P (K = 3)"]["our_speedup"] == pytest.approx(parallel)
    hybrid = found["DS-SPH-P (K = 3, 1:4)"]
    assert hybrid["our_speedup"] == pytest.approx(1.25 / (1 / parallel + 0.25))
    assert hybrid["speedup_mark"] == "predicted"
    assert (found["AL (K = 2)"]["our_speedup"], found["AL (K = 2)"]["speedup_mark"]) == (1.5, "measured")
    assert found["DS-AL (K = 2)"]["speedup_mark"] == "not run"  # timed on another network


@pytest.mark.parametrize("kind", [Cifar10, MnistVae])
def test_stages_are_timed_in_turn(kind):
    recipe = kind(depth=14, width=2, batch=4, stages=3)
    times = sys.modules["timing"].of_recipe(recipe, "cpu", rounds=1)
    assert times.stages == 3
    assert 1 / 3 <= times.heaviest < 1
    assert min(times.propagation, times.loading) > 0
    assert 0 < times.speedup() < 6


# ---- two processes against one ------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_two_processes_against_one():
    found = {row["case"]: row for row in json.loads(printed(auxiliary.main, ["--quick", "--json"]))}
    assert [name for name in found if "memory" not in name] == [
        "DS-P (K = 2)",
        "DS-AL (K = 2)",
        "Penalty (K = 2)",
        "AL (K = 2)",
        "DS-SPH-P (K = 2, 1:4)",
        "DS-SPH-AL (K = 2, 1:4)",
    ]
    needed = {"case", "threads", "baseline", "baseline_ms", "ours_ms", "ratio", "relative_error"}
    for row in found.values():
        assert needed <= set(row)
        assert sys.modules["comparing"].line(row).startswith(row["case"])
    hybrid, parallel = found["DS-SPH-P (K = 2, 1:4)"], found["DS-P (K = 2)"]
    mixed = (4 * parallel["ours_ms"] + hybrid["serial_epoch_ms"]) / 5
    assert hybrid["ours_ms"] == pytest.approx(mixed)
    assert hybrid["ratio"] == pytest.approx(hybrid["baseline_ms"] / mixed)
    assert found["host memory, penalty, pool:2"]["ratio"] == pytest.approx(8)
    assert found["host memory, augmented, pool:2"]["ratio"] == pytest.approx(4)
    assert 31 < found["host memory, penalty, pool:2+int8"]["ratio"] < 32  # and a scale per sample
