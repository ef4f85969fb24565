"""The command line: what its commands do, and what they say to a run that is none, or is not whole."""

import json

import pytest
import small
import torch
from refusing import refused

from layerparallel.cli import commands, main
from layerparallel.runs import checkpoint, record


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that has ended, made by the command line."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert main(["train", "level-sets", "--run", str(folder), *small.flags(small.recipe())]) == 0
    return folder


def test_a_run_leaves_its_folder(finished):
    summary = json.loads((finished / "summary.json").read_text())
    promised = "recipe epochs train_loss validation_accuracy validation_accuracy_parallel seconds"
    assert {*promised.split(), "serial_ratio"} <= summary.keys()
    assert sorted(path.name for path in finished.iterdir()) == [
        "checkpoints",
        "plots",
        "record.jsonl",
        "report.html",
        "summary.json",
    ]
    assert len(list((finished / "plots").glob("*.png"))) == 3


def test_evaluate_prints_both_accuracies(finished, capsys):
    summary = json.loads((finished / "summary.json").read_text())
    assert main(["evaluate", str(finished), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for key in ("validation_accuracy", "validation_accuracy_parallel"):
        assert found[key] == summary[key]
    assert main(["evaluate", str(finished)]) == 0
    assert f"{summary['validation_accuracy']:.2%}" in capsys.readouterr().out


def test_resuming_a_run_that_has_ended_draws_its_plots_again(finished, capsys):
    (finished / "plots" / "training.png").unlink()
    before = (finished / record.RECORD).read_bytes()
    assert main(["resume", str(finished)]) == 0
    assert "has ended already" in capsys.readouterr().out
    assert (finished / "plots" / "training.png").exists()
    assert (finished / record.RECORD).read_bytes() == before


# ---- wrong input -------------------------------------------------------------------------------


def test_a_run_folder_that_exists_is_refused_and_kept(finished, capsys):
    before = (finished / "summary.json").read_bytes()
    assert "exists already" in refused(["train", "level-sets", "--run", str(finished)], capsys)
    assert (finished / "summary.json").read_bytes() == before


def copy_of(finished, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    folder.joinpath(record.RECORD).write_bytes((finished / record.RECORD).read_bytes())
    return folder


def test_a_run_without_a_whole_checkpoint_cannot_be_evaluated(finished, tmp_path, capsys):
    folder = copy_of(finished, tmp_path)
    assert "has no whole checkpoint yet" in refused(["evaluate", str(folder)], capsys)
    half = folder / checkpoint.FOLDER / "00-000001-00000000"
    half.mkdir(parents=True)
    half.joinpath("network.pt").write_bytes(b"half")
    assert "has no whole checkpoint yet" in refused(["evaluate", str(folder)], capsys)


def test_a_record_with_an_option_this_version_lacks_is_refused(finished, tmp_path, capsys):
    folder = copy_of(finished, tmp_path)
    path = folder / record.RECORD
    path.write_text(path.read_text().replace('"depth"', '"dpth"', 1))
    assert "There is no option of level-sets 'dpth'" in refused(["resume", str(folder)], capsys)


def test_an_unwritable_place_for_a_run_is_one_sentence(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    arguments = ["train", "level-sets", "--run", str(tmp_path / "file" / "run")]
    assert "cannot be made" in refused(arguments, capsys)


# ---- benchmarks --------------------------------------------------------------------------------


def test_bench_hands_its_arguments_to_the_benchmark(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "count"
    folder.mkdir()
    (folder / "helper_of_count.py").write_text("ROWS = 2\n")
    (folder / "run.py").write_text(
        "import json\nfrom helper_of_count import ROWS\n"
        "def main(argv):\n    print(json.dumps([argv] * ROWS))\n"
    )
    monkeypatch.setattr(commands, "benchmarks", lambda: {"count": folder / "run.py"})
    monkeypatch.setattr(commands.sys, "path", [*commands.sys.path])
    assert main(["bench", "count", "--json", "--device", "cuda"]) == 0
    assert json.loads(capsys.readouterr().out) == [["--json", "--device", "cuda"]] * 2
    assert "did you mean 'count'?" in refused(["bench", "cuont"], capsys)
