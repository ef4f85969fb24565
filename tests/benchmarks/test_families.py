"""One network by every family: rows of time, memory and bytes, and the table with accuracies."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import scripts
import torch

from layerparallel import data, runs
from layerparallel.errors import InputError
from layerparallel.runs import record

bench = scripts.script("benchmarks", "families", "run.py")
chain = scripts.script("benchmarks", "families", "case.py")
METHODS = ["serial", "data", "pipeline", "mgrit", "penalty", "augmented", "parareal"]


def printed(*flags: str) -> str:
    return scripts.printed(bench.main, flags)


# ---- speed ----------------------------------------------------------------------------------------


def test_every_method_on_two_processes_and_in_virtual_time():
    found = json.loads(printed("--quick", "--json"))
    measured = [row for row in found if row["mark"] == "measured"]
    predicted = [row for row in found if row["mark"] == "predicted"]
    assert [row["method"] for row in measured] == METHODS
    assert [row["method"] for row in predicted] == METHODS[1:]
    for row in found:
        assert row["ratio"] == pytest.approx(row["baseline_ms"] / row["ours_ms"])
    assert {row["method"] for row in measured if row["mib"]} == {"serial", "mgrit"}
    assert all(row["bytes_sent"] > 0 for row in predicted)
    for row in measured:
        assert (row["kept_mib"] > 0) == (row["method"] in ("penalty", "augmented"))
        if "parallel_ms" in row:  # four epochs of five at once, and a tenth of the propagation before
            mean = 0.8 * row["parallel_ms"] + 0.2 * row["relayed_ms"] + row["fill_ms"] / 10
            assert row["ours_ms"] == pytest.approx(mean)


# ---- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["serial", "mgrit", "penalty", "augmented", "parareal"])
def test_every_method_trains_the_same_network(method, tmp_path, monkeypatch):
    images = _colours()
    monkeypatch.setattr(data, "load", lambda name: images)
    recipe = replace(bench.TINY, method=method, training=None, epochs=3, interval=4, learning_rate=0.02)
    threads = torch.get_num_threads()
    runs.train(recipe.build(), record.new_folder(tmp_path / method))
    torch.set_num_threads(threads)
    lines = record.history(record.read(tmp_path / method), "epoch")
    assert lines[-1]["validation_loss"] < lines[0]["validation_loss"]
    started = record.read(tmp_path / method)[0]["options"]
    assert {name: started[name] for name in recipe.options()} == recipe.options()


def _colours() -> data.Dataset:
    """Images of CIFAR's size whose class is their brightness."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(120) % 10
    noise = torch.randint(40, (120, 3, 32, 32), generator=generator)
    x = (20 * classes.view(-1, 1, 1, 1) + noise).to(torch.uint8)
    return data.Dataset("cifar-10", x[:80], classes[:80], x[80:], classes[80:], tuple("0123456789"))


# ---- the table ------------------------------------------------------------------------------------


RATIOS = {"serial": 1.0, "data": 1.8, "pipeline": 1.4, "mgrit": 1.6, "penalty": 1.7, "augmented": 1.7}
RATIOS["parareal"] = 1.8


@pytest.fixture
def timed(tmp_path):
    """A file of speeds, as the command prints them."""
    rows: list[dict[str, Any]] = []
    for name, ratio in RATIOS.items():
        more: dict[str, Any] = {"case": name, "method": name, "ratio": ratio, "ours_ms": 100 / ratio}
        rows.append(
            {**more, "mark": "measured", "ranks": 2, "mib": 80.0, "kept_mib": 0.0, "setting": ""}
        )
        if name != "serial":
            for ranks in (2, 4):
                rows.append({**more, "mark": "predicted", "ranks": ranks, "bytes_sent": 1000 * ranks})
    path = tmp_path / "speed.json"
    path.write_text(json.dumps(rows))
    return path


def written(folder: Path, accuracy: float, more: dict[str, float] | None = None, **other: Any) -> None:
    """A run that has ended."""
    with record.Record(record.new_folder(folder)) as file:
        file.append("start", options={**bench.Families().options(), **other})
        for epoch in range(3):
            file.append("epoch", phase=0, epoch=epoch, validation_accuracy=accuracy - 0.1 * (2 - epoch))
    record.write_summary(folder, {"validation_accuracy": accuracy, **(more or {})})


def test_the_commands_train_everything_once(timed, tmp_path):
    runs = tmp_path / "runs"
    lines = printed(
        "--commands", "--speed", str(timed), "--runs", str(runs), "--seeds", "2"
    ).splitlines()
    words = [shlex.split(line)[3:] for line in lines]
    chosen = [dict(zip(each[::2], each[1::2], strict=True)) for each in words]
    wanted = {("serial", 10), ("serial", 6), ("serial", 11), ("serial", 8), ("mgrit", 10)}
    wanted |= {("penalty", 10), ("augmented", 10), ("parareal", 10), ("parareal", 11)}
    for seed in ("0", "1"):
        of_seed = [(each["--train"], int(each["--epochs"])) for each in chosen if each["--seed"] == seed]
        assert len(of_seed) == len(set(of_seed))
        assert set(of_seed) == wanted
    assert len({each["--run"] for each in chosen}) == len(chosen)


def test_the_table_joins_speeds_and_accuracies(timed, tmp_path):
    runs = tmp_path / "runs"
    flags = ["--speed", str(timed), "--runs", str(runs)]
    for seed, accuracy in enumerate((0.5, 0.6)):
        written(runs / "serial" / "10epochs" / f"seed{seed}", accuracy)
    written(runs / "serial" / "11epochs" / "seed0", 0.58)
    written(runs / "parareal" / "11epochs" / "seed0", 0.57)
    parallel = {"validation_accuracy_parallel": 0.56, "fallbacks": 785}  # in 1570 steps of two solves
    written(runs / "mgrit" / "10epochs" / "seed0", 0.53, parallel)
    rows = {row["method"]: row for row in json.loads(printed("--table", "--json", *flags))}
    for exact in ("serial", "data", "pipeline"):
        assert rows[exact]["equal_epochs"]["accuracy"] == pytest.approx(55)
        assert rows[exact]["equal_epochs"]["seeds"] == 2
    assert rows["data"]["equal_time"] == {
        "epochs": 11, "accuracy": pytest.approx(58), "seeds": 1, "spread": 0.0,
        "parallel": None, "fallbacks": 0.0,
    }  # fmt: skip
    assert rows["serial"]["equal_time"]["epochs"] == 6
    assert rows["serial"]["equal_time"]["accuracy"] is None
    assert rows["mgrit"]["bytes_sent"] == 2000
    assert rows["parareal"]["epoch_s"] == pytest.approx(157 * 0.1 / 1.8)  # 10,000 images, 64 at a time
    text = printed("--table", *flags)
    assert "55.0 ± 5.0" in text
    assert "57.0 (1 seed) (11 epochs)" in text
    assert "53.0 (1 seed); in parallel 56.0" in text
    assert text.count("; 25 % of solves done serially") == 1
    assert "not run" in text
    picture = printed("--plot", str(tmp_path / "all.png"), *flags).strip()
    assert Path(picture).stat().st_size > 1000


@pytest.mark.parametrize("ranks", [2, 3, 4, 16, 64])
def test_coarse_steps_are_no_longer_than_one(ranks):
    found = chain.hierarchies(64, ranks, 4.0)
    assert found
    for interval, levels in found:
        assert interval ** (levels - 1) * 4.0 / 64 <= 1
        assert interval ** (levels - 1) * 2 <= 64
    assert found[0][0] == max(2, min(64 // ranks, 16))


def test_a_run_of_another_network_is_refused(timed, tmp_path):
    written(tmp_path / "runs" / "mgrit" / "10epochs" / "seed0", 0.5, depth=32)
    with pytest.raises(InputError, match="trained with depth = 32, the table is of 64"):
        printed("--table", "--speed", str(timed), "--runs", str(tmp_path / "runs"))
