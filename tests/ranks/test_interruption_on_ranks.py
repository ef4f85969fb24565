"""Signals that come to some ranks, or to torchrun: all save at the same step, and none hangs."""

import os
import signal
import sys
import time

import interrupting
import pool as pools
import pytest
import small
from launching import launch
from test_runs import do

from layerparallel import cli
from layerparallel.runs import checkpoint, ending, record
from layerparallel.runs.checkpoint import Moment

INT, TERM = int(signal.SIGINT), int(signal.SIGTERM)
STATUS = {INT: 130, TERM: 143}
# So few seconds that ranks tell each other after every step; checkpoints are further apart.
OPTIONS = {"epochs": 2, "serial_epochs": 0, "checkpoint_seconds": 1e-3}
SLOW = {**OPTIONS, "epochs": 600, "checkpoint_seconds": 60.0}


def arguments(folder, options, layer_ranks=2):
    call = ["train", "level-sets", "--run-folder", str(folder), "--layer-ranks", str(layer_ranks)]
    return call + small.flags(small.recipe(**options))


def called(arguments: list[str], struck: dict[int, str]) -> None:
    """The command line on a rank, which signals strike as `interrupting.install` has it."""
    interrupting.install(struck.get(int(os.environ["RANK"]), ""))
    sys.exit(cli.main(arguments))


def saved(folder):
    found = checkpoint.latest(folder)
    return found.moment if found else None


def sentence(folder, moment, how="and saved"):
    path = folder / checkpoint.FOLDER / str(moment)
    return f"stopped {how}; go on from {path} with: layerparallel resume {folder}"


@pytest.mark.parametrize(("number", "rank"), [(INT, 0), (TERM, 1)])
def test_one_rank_gets_a_signal_and_all_save_at_the_same_step(pool, tmp_path, number, rank):
    folder = tmp_path / "run"
    pool.run(2, do, str(record.new_folder(tmp_path / "whole")), OPTIONS)
    ranks = launch(2, tmp_path, called, arguments(folder, OPTIONS), {rank: f"9 0 {number}"})
    assert [each.status() for each in ranks] == [STATUS[number]] * 2
    assert ranks[0].said.splitlines()[1:] == [sentence(folder, Moment(0, 1, 3))]
    assert ranks[1].said == ""
    assert saved(folder) == Moment(0, 1, 3)
    pool.run(2, do, str(folder), OPTIONS, True)
    assert small.same(small.final_state(tmp_path / "whole"), small.final_state(folder))
    assert small.losses(tmp_path / "whole") == small.losses(folder)


def test_of_two_by_two_ranks_the_last_gets_a_signal(tmp_path):
    folder = tmp_path / "run"
    ranks = launch(4, tmp_path, called, arguments(folder, OPTIONS), {3: f"9 0 {TERM}"})
    assert [each.status() for each in ranks] == [143] * 4
    assert ranks[0].said.splitlines()[1:] == [sentence(folder, Moment(0, 1, 3))]
    assert [each.said for each in ranks[1:]] == [""] * 3


def test_ranks_answer_within_about_a_second(tmp_path):
    folder = tmp_path / "run"
    ranks = launch(2, tmp_path, called, arguments(folder, SLOW), {})
    path = folder / record.RECORD
    while not path.exists() or path.read_bytes().count(b"\n") < 20:
        time.sleep(0.05)
    began = time.monotonic()
    os.kill(ranks[1].process.pid, signal.SIGTERM)
    assert [each.status() for each in ranks] == [143, 143]
    assert time.monotonic() - began < 10  # with the checkpoint and the end of Python
    assert ranks[0].said.splitlines()[-1] == sentence(folder, saved(folder))


@pytest.mark.parametrize("number", [INT, TERM])
def test_torchrun_passes_a_signal_on_and_a_saved_run_goes_on(pool, tmp_path, number):
    folder = tmp_path / "run"
    pool.run(2, do, str(record.new_folder(tmp_path / "whole")), OPTIONS)
    done = pools.torchrun(
        2,
        interrupting.__file__,
        *arguments(folder, OPTIONS),
        STRUCK_1=f"parent 4 2 {number}",  # it takes its time to pass it on
        seconds=180,
    )
    assert done.returncode == 1  # torchrun's own, whatever its workers say
    stopped = saved(folder)
    assert stopped is not None
    assert Moment(0, 0, 5) <= stopped < Moment(0, 2, 0)
    assert sentence(folder, stopped) in done.stdout.splitlines()
    assert "so rank" not in done.stdout  # nobody takes it for a failure
    pool.run(2, do, str(folder), OPTIONS, True)
    assert small.same(small.final_state(tmp_path / "whole"), small.final_state(folder))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_second_signal_ends_a_rank_at_once_and_the_other_with_it(tmp_path, rank):
    folder = tmp_path / "run"
    ranks = launch(2, tmp_path, called, arguments(folder, OPTIONS), {rank: f"9 100 {INT} {INT}"})
    began = time.monotonic()
    assert ranks[rank].status() == 130
    assert ranks[1 - rank].status() not in (0, None)
    assert time.monotonic() - began < 60
    assert f"Rank {rank} (" in ranks[1 - rank].said
    assert f"raised KeyboardInterrupt, so rank {1 - rank} ends, too." in ranks[1 - rank].said
    assert (sentence(folder, saved(folder), "at once") in ranks[0].said.splitlines()) == (rank == 0)


def concluding(arguments: list[str], who: list[int], number: int) -> None:
    """The command line, where some ranks get a signal after training."""
    work = ending.residuals_per_cycle

    def strikes(*given):
        if int(os.environ["RANK"]) in who:
            os.kill(os.getpid(), number)
        return work(*given)

    ending.residuals_per_cycle = strikes
    interrupting.install("")
    sys.exit(cli.main(arguments))


@pytest.mark.parametrize("number", [INT, TERM])
@pytest.mark.parametrize("who", [[0], [1], [0, 1]], ids=str)
def test_after_training_ranks_end_at_once(tmp_path, who, number):
    folder = tmp_path / "run"
    ranks = launch(2, tmp_path, concluding, arguments(folder, OPTIONS), who, number)
    statuses = [each.status() for each in ranks]
    assert all(statuses[rank] == STATUS[number] for rank in who)
    assert all(status > 0 for status in statuses)
    assert saved(folder) == Moment(0, 2, 0)
    if 0 in who:
        assert sentence(folder, Moment(0, 2, 0), "at once") in ranks[0].said.splitlines()
