"""Runs on ranks: trained as on one process, resumed on any number of ranks, started by torchrun."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pool as pools
import pytest
import small
import torch
from launching import launch
from small import Killed

from layerparallel import cli, runs
from layerparallel.cli.runs import trained as trained_network
from layerparallel.errors import InputError
from layerparallel.group.team import Team
from layerparallel.runs import checkpoint, record
from layerparallel.runs.evaluate import accuracy
from layerparallel.training.backprop import Backprop

HERE = Path(__file__).parent
SHAPES = [2, 3, (2, 1), (2, 2)]


# ---- on the ranks -------------------------------------------------------------------------------


def team_of(place) -> Team:
    """Of a layer group, or of a mesh."""
    return Team.of(place) if hasattr(place, "mesh_dim_names") else Team(layer=place)


def do(place, folder: str, options: dict, resumes: bool = False, until: int | None = None):
    """Trains the small recipe, or goes on with it; up to a step where all ranks are killed."""
    run = small.recipe(**options).build(team_of(place))
    step, left = Backprop.step, iter(range(10**9 if until is None else until))

    def mortal(self, x, y):
        if next(left, None) is None:
            raise Killed
        return step(self, x, y)

    Backprop.step = mortal
    try:
        outcome = (runs.resume if resumes else runs.train)(run, Path(folder))
    except Killed:
        return None
    finally:
        Backprop.step = step
    return outcome.summary


def on(pool, shape):
    """Runs a function on a layer group, or on a mesh."""
    return lambda *job: (pool.run_mesh if isinstance(shape, tuple) else pool.run)(shape, *job)


# ---- trained ------------------------------------------------------------------------------------


def network_of(state: dict) -> dict:
    return state["method"]["network"] if "method" in state else state["network"]


def assert_close(folder: Path, other: Path) -> None:
    one, several = network_of(small.final_state(folder)), network_of(small.final_state(other))
    assert one.keys() == several.keys()
    for name, value in one.items():
        torch.testing.assert_close(several[name], value, rtol=1e-9, atol=1e-11)
    assert small.losses(other) == pytest.approx(small.losses(folder), rel=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_ranks_train_as_one_process_does(pool, tmp_path, shape):
    one = runs.train(small.recipe().build(), record.new_folder(tmp_path / "one")).summary
    folder = record.new_folder(tmp_path / "several")
    summaries = on(pool, shape)(do, str(folder), {})
    assert_close(tmp_path / "one", folder)
    assert summaries == [record.read_summary(folder)] * len(summaries)  # every rank has it
    for name in ("validation_accuracy", "validation_accuracy_parallel", "epochs", "fallbacks"):
        assert summaries[0][name] == one[name]
    assert summaries[0]["serial_ratio"] is None
    lines = record.read(folder)  # one rank writes
    trained = ["network", *["epoch"] * 4, "checkpoint"]
    assert [line["kind"] for line in lines] == ["start", *trained, "cycles"]
    data, layer = shape if isinstance(shape, tuple) else (1, shape)
    assert lines[0]["ranks"] == {"data": data, "layer": layer}
    whole = record.read(tmp_path / "one")
    assert lines[1]["parameters"] == whole[1]["parameters"]
    epochs = (record.history(each, "epoch") for each in (lines, whole))
    for several, alone in zip(*epochs, strict=True):
        for name in ("train_accuracy", "validation_accuracy", "gradient_error", "forward_factor"):
            assert several.get(name, 0.0) == pytest.approx(alone.get(name, 0.0), rel=1e-6)
    for name in ("forward", "adjoint"):
        assert lines[-1][name][:2] == pytest.approx(whole[-2][name][:2], rel=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"refine": (8,), "refine_epochs": 1, "epochs": 1},
        {"adaptive": True, "adaptive_every": 4, "adaptive_target": 1e-3, "epochs": 1},
        {"smoothness": 1e-3, "epochs": 1},
    ],
    ids=lambda options: next(iter(options)),
)
def test_refinement_adaptivity_and_smoothness_are_those_of_one_process(pool, tmp_path, options):
    runs.train(small.recipe(**options).build(), record.new_folder(tmp_path / "one"))
    pool.run(3, do, str(record.new_folder(tmp_path / "several")), options)
    assert_close(tmp_path / "one", tmp_path / "several")


# ---- resumed ------------------------------------------------------------------------------------

OPTIONS = {"checkpoint_seconds": 0.0, "epochs": 2}


@pytest.mark.parametrize(("shape", "other", "step"), [(2, 3, 10), (3, 1, 8), (1, 3, 5), ((2, 2), 2, 12)])
def test_a_broken_run_goes_on_on_any_number_of_ranks(pool, tmp_path, shape, other, step):
    whole, same, another = (tmp_path / name for name in ("whole", "same", "other"))
    on(pool, shape)(do, str(record.new_folder(whole)), OPTIONS)
    for folder in (same, another):
        assert set(on(pool, shape)(do, str(record.new_folder(folder)), OPTIONS, False, step)) == {None}
    found = checkpoint.latest(same)
    assert found is not None
    assert (found.moment.epoch, found.moment.step) == divmod(step, 7)
    on(pool, shape)(do, str(same), OPTIONS, True)
    assert small.same(small.final_state(whole), small.final_state(same))  # bitwise
    assert small.losses(whole) == small.losses(same)
    on(pool, other)(do, str(another), OPTIONS, True)
    assert_close(whole, another)


def evaluated(group, folder: str) -> tuple[float, float]:
    run = small.recipe().build(Team(layer=group))
    network, x, y = trained_network(run, Path(folder)), run.data.validation_x, run.data.validation_y
    return accuracy(network, x, y), accuracy(network, x, y, parallel=True)


def test_a_run_of_one_process_is_evaluated_on_several(pool, tmp_path):
    summary = runs.train(small.recipe().build(), record.new_folder(tmp_path)).summary
    wanted = summary["validation_accuracy"], summary["validation_accuracy_parallel"]
    assert pool.run(3, evaluated, str(tmp_path)) == [wanted] * 3


# ---- what goes wrong ----------------------------------------------------------------------------


def refused(place, folder: str, options: dict, resumes: bool = False) -> str:
    with pytest.raises(InputError) as caught:
        do(place, folder, options, resumes)
    return str(caught.value)


def exploded(place, folder: str) -> str:
    """A loss that overflows, though the states do not."""
    step = Backprop.step

    def infinite(self, x, y):
        return replace(step(self, x, y), loss=torch.tensor(float("inf")))

    Backprop.step = infinite
    try:
        return refused(place, folder, {})
    finally:
        Backprop.step = step


def test_a_loss_that_is_not_finite_ends_every_rank_with_one_sentence(pool, tmp_path):
    told = pool.run(3, exploded, str(record.new_folder(tmp_path / "run")))
    assert told == ["The loss became inf in epoch 1: lower the learning rate."] * 3


def test_states_that_are_not_finite_end_every_rank_with_one_sentence(pool, tmp_path):
    options = {"learning_rate": 1e200, "dtype": "float32", "epochs": 2}
    told = pool.run(3, refused, str(record.new_folder(tmp_path / "run")), options)
    assert told == [told[0]] * 3
    assert "lower learning rate may help: the state became NaN or infinite" in told[0]


def test_a_run_that_another_process_works_on_is_refused_on_every_rank(pool, tmp_path):
    folder = record.new_folder(tmp_path / "run")
    with record.Record(folder):
        told = pool.run(2, refused, str(folder), {})
    assert told == [told[0]] * 2
    assert "Another process is working on the run" in told[0]


def test_options_that_the_checkpoint_does_not_fit_are_refused_on_every_rank(pool, tmp_path):
    runs.train(small.recipe(serial_epochs=0).build(), record.new_folder(tmp_path))
    told = pool.run(3, refused, str(tmp_path), {"width": 6}, True)
    assert told == [told[0]] * 3
    assert "does not fit the options" in told[0]


def test_a_batch_that_cannot_be_shared_is_refused(pool, tmp_path):
    told = pool.run_mesh((2, 1), refused, str(record.new_folder(tmp_path / "run")), {"batch": 1})
    assert (
        told == ["A batch of 1 samples cannot be shared by 2 data-parallel ranks: give at least 2."] * 2
    )


# ---- the command line, by torchrun --------------------------------------------------------------


def flags(**options) -> list[str]:
    return small.flags(small.recipe(epochs=2, checkpoint_seconds=0.0, serial_epochs=0, **options))


def test_torchrun_starts_a_killed_run_again_and_it_ends_where_the_unbroken_one_ends(pool, tmp_path):
    options = {"epochs": 2, "checkpoint_seconds": 0.0, "serial_epochs": 0}
    pool.run(2, do, str(record.new_folder(tmp_path / "whole")), options)
    broken = tmp_path / "broken"
    done = pools.torchrun(
        2,
        HERE / "dying.py",
        *("train", "level-sets", "--layer-ranks", "2", "--run-folder", broken, *flags()),
        options=("--max-restarts", "1"),
        seconds=180,
        KILLED_RANK="1",
        KILLED_STEP="9",
    )
    assert done.returncode == 0, done.stdout
    assert "it goes on from its last checkpoint" in done.stdout
    resumed = [line["done"] for line in record.read(broken) if line["kind"] == "resume"]
    assert resumed == [[0, 1]]
    assert small.same(small.final_state(tmp_path / "whole"), small.final_state(broken))
    assert (broken / "report.html").exists()
    assert len(list((broken / "plots").glob("*.png"))) >= 2


def called(arguments: list[str], more: dict[str, list[str]]) -> int:
    """The command line on a rank; some ranks are given more."""
    return cli.main(arguments + more.get(f"rank_{os.environ['RANK']}", []))


def test_a_run_is_evaluated_by_the_command_line_on_any_number_of_ranks(tmp_path, capsys):
    run = tmp_path / "run"
    assert cli.main(["train", "level-sets", "--run", str(run), *flags()]) == 0
    capsys.readouterr()
    ranks = launch(2, tmp_path, called, ["evaluate", str(run), "--json"], {})
    assert [rank.returned() for rank in ranks] == [0, 0]
    summary = record.read_summary(run)
    assert summary is not None
    found = json.loads(ranks[0].said)
    for name in ("validation_accuracy", "validation_accuracy_parallel"):
        assert found[name] == summary[name]
    assert ranks[1].said == ""


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"rank_1": ["--seed", "1"]}, "disagree on the option seed"),
        ({"rank_0": ["--layer-ranks", "3"], "rank_1": ["--layer-ranks", "3"]}, "layer groups of 3"),
        ({"rank_0": ["--depth", "0"], "rank_1": ["--depth", "0"]}, "depth = 0 is below 1"),
        pytest.param(
            {"rank_0": ["--device", "cuda"], "rank_1": ["--device", "cuda"]},
            "NCCL",
            marks=pytest.mark.skipif(torch.cuda.device_count() > 1, reason="there are GPUs"),
        ),
    ],
)
def test_wrong_input_is_one_sentence_on_every_rank(tmp_path, more, said):
    arguments = ["train", "level-sets", "--run", str(tmp_path / "run"), *flags()]
    ranks = launch(2, tmp_path, called, arguments, more)
    assert [rank.returned() for rank in ranks] == [2, 2]
    for rank in ranks:
        assert rank.said.startswith("layerparallel: ")
        assert rank.said.count("\n") == 1
        assert said in rank.said
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_exists_is_refused_on_every_rank(tmp_path):
    run = record.new_folder(tmp_path / "run")
    (run / "something").touch()
    arguments = ["train", "level-sets", "--run", str(run), *flags()]
    ranks = launch(2, tmp_path, called, arguments, {})
    assert [rank.returned() for rank in ranks] == [2, 2]
    assert all("exists already" in rank.said and rank.said.count("\n") == 1 for rank in ranks)
