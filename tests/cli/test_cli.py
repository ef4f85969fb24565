"""The command line: what it does, and one sentence for every wrong input."""

import dataclasses
import json

import pytest
import small
import torch

import layerparallel
from layerparallel import recipes
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


def refused(arguments, capsys):
    """The one sentence that a wrong input gets."""
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert "Traceback" not in output.err
    assert output.err.count("\n") == 1
    assert output.err.startswith("layerparallel: ")
    return output.err


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


def test_list_names_every_recipe(capsys):
    assert main(["list"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == recipes.names()


def test_help_and_version(capsys):
    assert main([]) == 0
    overview = capsys.readouterr().out
    assert all(name in overview for name in commands.COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"layerparallel {layerparallel.__version__}\n"
    for command in ("train", "bench"):
        assert main([command, "--help"]) == 0
        assert capsys.readouterr().out.startswith("usage:")


def test_every_option_of_every_recipe_is_in_its_help(capsys):
    for name in recipes.names():
        with pytest.raises(SystemExit) as left:
            main(["train", name, "--help"])
        assert left.value.code == 0
        text = capsys.readouterr().out
        for option in dataclasses.fields(recipes.get(name)):
            assert f"--{option.name.replace('_', '-')}" in text
        assert "--run" in text
        assert "--tensorboard" in text


RECIPES = ", ".join(recipes.names())


# ---- wrong input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "There is no command 'trian': did you mean 'train'?"),
        (["train"], f"takes the name of a recipe first: there is {RECIPES}"),
        (["train", "level-set"], "There is no recipe 'level-set': did you mean 'level-sets'?"),
        (["train", "zzz"], f"There is no recipe 'zzz': there is {RECIPES}"),
        (["train", "level-sets", "--dept", "3"], "'dept': did you mean 'depth'?"),
        (["train", "level-sets", "--depth", "0"], "depth = 0"),
        (["train", "level-sets", "--depth", "-5"], "depth = -5"),
        (["train", "level-sets", "--T", "0"], "T = 0"),
        (["train", "level-sets", "--T", "nan"], "T = nan"),
        (["train", "level-sets", "--coarsening", "1"], "coarsening"),
        (["train", "level-sets", "--coarsening", "5000"], "coarsening"),
        (["train", "level-sets", "--levels", "1"], "levels"),
        (["train", "level-sets", "--forward-cycles", "0"], "forward_cycles"),
        (["train", "level-sets", "--adjoint-cycles", "-1"], "adjoint_cycles"),
        (["train", "level-sets", "--relaxation", "-1"], "relaxation"),
        (["train", "level-sets", "--samples", "0"], "samples"),
        (["train", "level-sets", "--width", "0"], "width"),
        (["train", "level-sets", "--batch", "0"], "batch"),
        (["train", "level-sets", "--epochs", "0"], "epochs"),
        (["train", "level-sets", "--training", "0"], "training"),
        (["train", "level-sets", "--serial-epochs", "-1"], "serial_epochs"),
        (["train", "level-sets", "--refine", "100"], "Depth 100 of refine"),
        (["train", "level-sets", "--refine", "256", "64"], "Depth 256 of refine"),
        (["train", "level-sets", "--refine", "16", "--coarsening", "32"], "coarsening 32"),
        (["train", "level-sets", "--depth", "1"], "no coarsening"),
        (["bench"], "takes the name of a benchmark"),
        (["bench", "gradiant"], "There is no benchmark 'gradiant'"),
        (["evaluate", "no-such-run"], "is not a run folder"),
        (["resume", "no-such-run"], "is not a run folder"),
        (["report", "no-such-run"], "is not a run folder"),
        (["train", "level-sets", "--tensorbord"], "'tensorbord': did you mean 'tensorboard'?"),
    ],
)
def test_wrong_input_gets_one_sentence_and_leaves_no_folder(
    arguments, said, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert said in refused(arguments, capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "flags", [["--depth", "deep"], ["--coarse", "best"], ["--depth"], ["--dtype", "float16"]]
)
def test_a_value_of_the_wrong_kind_is_refused_by_its_flag(flags, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(["train", "level-sets", *flags])
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert flags[0] in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


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
