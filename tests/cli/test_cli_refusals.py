"""Wrong input gets one sentence, exit code 2, and leaves nothing behind."""

from pathlib import Path

import pytest
import torch
from refusing import refused

from layerparallel import recipes
from layerparallel.cli import commands, main

RECIPES = ", ".join(recipes.names())


def meant(recipe: str, typed: str, option: str) -> tuple[list[str], str]:
    """A near miss in `train RECIPE`, and what was meant."""
    return [
        "train",
        recipe,
        typed,
        "3",
    ], f"no option {typed} of `train {recipe}`: did you mean {option}?"


NAMES = [
    (["trian"], "There is no command 'trian': did you mean 'train'?"),
    (["fit"], "There is no command 'fit': did you mean 'train'?"),
    (["eval"], "did you mean 'evaluate'?"),
    (["benchmark"], "did you mean 'bench'?"),
    (["zzz"], "There is no command 'zzz': there is bench, doctor, evaluate"),
    (["train"], f"takes the name of a recipe first: there is {RECIPES}"),
    (["train", "--depth", "4"], "takes the name of a recipe first"),
    (["train", "levelsets"], "There is no recipe 'levelsets': did you mean 'level-sets'?"),
    (["train", "MNIST"], "There is no recipe 'MNIST': did you mean 'mnist'?"),
    (["train", "zzz"], f"There is no recipe 'zzz': there is {RECIPES}"),
    (["predict", "level-set"], "did you mean 'level-sets'?"),
    (["predict", "mnist-vae", "--error", "bce"], "trains stages or subnetworks"),
    (["bench", "--json"], "takes a benchmark's name first: `layerparallel bench list` lists them."),
    (["bench", "lst"], "There is no benchmark 'lst': did you mean 'list'?"),
    (["bench", "gradiant"], "There is no benchmark 'gradiant': did you mean 'gradient'?"),
    (["bench", "depth-independence"], "did you mean 'depth_independence'?"),
    (["list", "all"], "'all' belongs to no option"),
    (["list", "--json"], "There is no option --json of `list`: it has none."),
]
OPTIONS = [
    meant("level-sets", "--lr", "--learning-rate"),
    meant("level-sets", "-lr", "--learning-rate"),
    meant("level-sets", "--learningrate", "--learning-rate"),
    meant("level-sets", "--batch-size", "--batch"),
    (["train", "level-sets", "--batch_size", "3"], "no option --batch-size of `train level-sets`: did"),
    meant("level-sets", "--layers", "--depth"),
    meant("level-sets", "--n-layers", "--depth"),
    meant("level-sets", "--dept", "--depth"),
    meant("level-sets", "--t", "--T"),
    meant("level-sets", "--iterations", "--epochs"),
    meant("level-sets", "-e", "--epochs"),
    meant("level-sets", "--hidden-size", "--width"),
    meant("mnist", "--hidden-size", "--channels"),
    meant("mnist", "--dataset", "--data"),
    meant("imagenet-parareal", "--data-dir", "--images"),
    meant("cifar10", "--weight-decay", "--decay"),
    meant("cifar10", "--arch", "--family"),
    meant("level-sets", "--gpu", "--device"),
    meant("level-sets", "--num-workers", "--threads"),
    meant("level-sets", "--eval", "--evaluate-every"),
    meant("level-sets", "--output-dir", "--run"),
    meant("level-sets", "--tensorbord", "--tensorboard"),
    meant("level-sets", "--nproc", "--layer-ranks"),
    (["train", "level-sets", "--frobnicate"], "`layerparallel train level-sets --help` lists those"),
    (["resume", "run", "--lr", "3"], "no option --lr of `resume`: there is --layer-ranks."),
    (
        ["evaluate", "run", "--data", "x"],
        "no option --data of `evaluate`: there is --json, --no-json, --layer-ranks.",
    ),
    (["evaluate", "run", "--jsn"], "no option --jsn of `evaluate`: did you mean --json?"),
    (["predict", "level-sets", "--rank", "2"], "did you mean --ranks?"),
    (["predict", "level-sets", "--batch-size", "2"], "did you mean --batch?"),
    (["report", "run", "--out", "x"], "no option --out of `report`: did you mean --output?"),
    (["report", "run", "--show"], "did you mean --open?"),
    (["bench", "map", "--jsn"], "There is no option --jsn of `bench map`: did you mean --json?"),
    (["bench", "map", "--rounds", "3"], "There is no option --rounds of `bench map`: "),
]
VALUES = [
    (["--epochs", "ten"], "--epochs takes a whole number, not 'ten': give such as --epochs 150."),
    (["--epochs"], "--epochs takes a whole number: give such as --epochs 150."),
    (["--coarse", "picrad"], "not 'picrad': did you mean picard?"),
    (["--dtype", "float16"], "--dtype takes float32 or float64, not 'float16'"),
    (["--device", "tpu"], "--device takes cpu or cuda"),
    (
        ["--adaptive", "true"],
        "'true' belongs to no option: an option begins with --, and a switch takes no value.",
    ),
    (["5"], "'5' belongs to no option: an option begins with --, and a switch takes no value."),
    (["--depth", "0"], "depth = 0 is below 1: give at least 1."),
    (["--depth", "-5"], "depth = -5 is below 1"),
    (["--depth", "1" + 20 * "0"], "is too large: give at most"),
    (["--depth", "1"], "no coarsening leaves"),
    (
        ["--depth", "16", "--coarsening", "32"],
        "use a coarsening of at most 16 or the serial solver",
    ),
    (["--T", "0"], "T = 0.0 is not above 0: give more than 0."),
    (["--T", "nan"], "T = nan is not finite: give more than 0."),
    (["--learning-rate", "inf"], "learning_rate = inf is not finite"),
    (["--coarsening", "1"], "coarsening = 1 is below 2"),
    (["--coarsening", "5000"], "coarsening"),
    (["--levels", "1"], "levels = 1 is below 2"),
    (["--forward-cycles", "0"], "forward_cycles"),
    (["--adjoint-cycles", "-1"], "adjoint_cycles"),
    (["--relaxation", "-1"], "relaxation = -1 is below 0"),
    (["--samples", "0"], "samples"),
    (["--width", "0"], "width"),
    (["--batch", "0"], "batch"),
    (["--epochs", "0"], "epochs"),
    (["--training", "0"], "training"),
    (["--seed", "-1"], "seed = -1 is below 0: give 0 to 4294967295."),
    (["--threads", "100000"], "threads = 100000 is above 1024"),
    (["--serial-epochs", "-1"], "serial_epochs"),
    (["--refine", "100"], "Depth 100 of refine"),
    (["--refine", "256", "64"], "Depth 256 of refine"),
    (["--refine", "16", "--coarsening", "32"], "coarsening 32"),
    (["--layer-ranks", "0"], "0 layer ranks are too few"),
    (["--layer-ranks", "2"], "start it by torchrun"),
]
PLACES = [
    (["resume"], "`resume` takes a run folder: give one that `layerparallel train` has named."),
    (["evaluate"], "`evaluate` takes a run folder"),
    (["report"], "`report` takes a run folder"),
    (["report", "--open"], "`report` takes a run folder"),
    (["resume", "a", "b"], "'b' belongs to no option"),
    (["train", "mnist", "--data", "nowhere"], "nowhere is no folder: give one with images in it."),
    (["train", "imagenet-parareal"], "give their folder by --images."),
    *(([name, "nowhere"], "is not a run folder") for name in ("resume", "evaluate", "report")),
]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands.sys, "path", [*commands.sys.path])


@pytest.mark.parametrize(("arguments", "said"), [*NAMES, *OPTIONS, *PLACES], ids=lambda x: " ".join(x))
def test_wrong_input_gets_one_sentence_and_leaves_no_folder(arguments, said, capsys, tmp_path):
    assert said in refused(arguments, capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("flags", "said"), VALUES, ids=lambda x: " ".join(x))
def test_a_wrong_value_gets_one_sentence_and_leaves_no_folder(flags, said, capsys, tmp_path):
    assert said in refused(["train", "level-sets", *flags], capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("recipe", ["level-sets", "mnist-vae", "cifar10-parareal"])
def test_a_gpu_that_there_is_not_is_refused_before_data_are_read(recipe, capsys, monkeypatch):
    monkeypatch.setattr(recipes.get(recipe), "load", None)
    assert "leave out --device cuda" in refused(["train", recipe, "--device", "cuda"], capsys)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("full", "The folder full exists already: name another with --run, as it holds no run."),
        ("file", "file is a file, not a run folder"),
        ("file/run", "cannot be made: "),
    ],
)
def test_a_place_for_no_run_is_refused_before_data_are_read(path, said, capsys, monkeypatch):
    Path("full").mkdir()
    Path("full/thing").write_text("mine")
    Path("file").write_text("mine")
    monkeypatch.setattr(recipes.get("level-sets"), "load", None)
    assert said in refused(["train", "level-sets", "--run", path], capsys)
    assert Path("full/thing").read_text() == Path("file").read_text() == "mine"


def test_a_file_and_a_folder_of_something_else_are_no_runs(capsys):
    Path("full").mkdir()
    Path("full/thing").write_text("mine")
    for name in ("resume", "evaluate", "report"):
        for path in ("full", "full/thing"):
            assert f"{path} is not a run folder" in refused([name, path], capsys)


def test_plots_that_cannot_be_written_are_refused_before_anything_is_measured(capsys):
    Path("file").write_text("mine")
    said = refused(["predict", "level-sets", "--output", "file"], capsys)
    assert "The folder file cannot be made: File exists; name another by --output." in said


def test_what_the_method_refuses_leaves_no_run_folder(capsys, monkeypatch):
    import stage_images

    from layerparallel import data

    digits = stage_images.digits()
    monkeypatch.setattr(data, "load", lambda name: digits)
    flags = ["--depth", "14", "--width", "2", "--batch", "20", "--budget", "1e-9"]
    for run in (["--run", "run"], []):
        assert main(["train", "mnist-vae", *flags, *run]) == 2
        assert "the budget is 1e-09 GB" in capsys.readouterr().err
    assert not Path("run").exists()
    assert list(Path("runs").iterdir()) == []
