"""SIGINT and SIGTERM, really sent: a checkpoint and the end, or the end at once; and what is said."""

import contextlib
import io
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import interrupting
import pytest
import small
import torch

from layerparallel import cli, runs
from layerparallel.errors import InputError
from layerparallel.runs import checkpoint, ending, record, underway
from layerparallel.runs.checkpoint import Moment
from layerparallel.runs.interruption import Interruption
from layerparallel.runs.progress import Plain
from layerparallel.training.backprop import Backprop

pytestmark = pytest.mark.slow

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
ENDS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: SystemExit}
both = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)


@pytest.fixture(autouse=True)
def _as_before():
    """Handlers as a process has them that a person starts; and the threads of before."""
    threads = torch.get_num_threads()
    before = {number: signal.getsignal(number) for number in STATUS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    torch.set_num_threads(threads)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The unbroken run."""
    folder = tmp_path_factory.mktemp("whole")
    runs.train(small.recipe().build(), record.new_folder(folder))
    return folder


def saved(folder):
    """Where the last checkpoint stands; None where there is none."""
    found = checkpoint.latest(folder)
    return found.moment if found else None


def place(folder, *moment):
    return folder / checkpoint.FOLDER / str(Moment(*moment))


def ends_as(whole, folder):
    assert small.same(small.final_state(whole), small.final_state(folder))
    assert small.losses(whole) == small.losses(folder)


# ---- the command line --------------------------------------------------------------------------


@both
def test_the_command_line_ends_with_the_usual_status(tmp_path, whole, number):
    folder = tmp_path / "a run"
    call = [sys.executable, interrupting.__file__, "train", "level-sets", "--run", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "STRUCK_0": f"10 0 {int(number)}"}
    done = subprocess.run(
        [*call, *small.flags(small.recipe())],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == STATUS[number], done.stderr
    assert done.stderr == ""
    assert done.stdout.splitlines()[1:] == [
        f"stopped and saved; go on from {place(folder, 0, 1, 4)} with: layerparallel resume '{folder}'"
    ]
    assert cli.main(["resume", str(folder)]) == 0
    ends_as(whole, folder)


@pytest.mark.parametrize(
    ("place", "begun"), [((runs, "train"), False), ((underway, "describe_network"), True)]
)
def test_ctrl_c_before_the_first_line_leaves_no_folder(tmp_path, monkeypatch, place, begun):
    folder = tmp_path / "run"
    monkeypatch.setattr(*place, struck_once(getattr(*place), signal.SIGINT))
    call = ["train", "level-sets", "--run", str(folder), *small.flags(small.recipe())]
    assert cli.main(call) == 130
    assert folder.exists() == begun
    if begun:
        monkeypatch.undo()
        assert cli.main(["resume", str(folder)]) == 0


# ---- from Python -------------------------------------------------------------------------------


def interrupted(run, folder, number, work=runs.train):
    """What a run says before a signal ends it."""
    said = io.StringIO()
    with pytest.raises(ENDS[number]) as caught:
        work(run, folder, Plain(said))
    assert number != signal.SIGTERM or caught.value.code == 143
    return said.getvalue().splitlines()[-1]


@both
@pytest.mark.parametrize("step", [0, 5, 6, 13, 20, 27])
def test_wherever_it_is_interrupted_it_ends_bitwise_as_the_unbroken_run(
    tmp_path, monkeypatch, whole, number, step
):
    run, folder = small.recipe().build(), record.new_folder(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Backprop, "step", interrupting.struck(step, [number]))
        said = interrupted(run, folder, number)
    at = (0, *divmod(step + 1, 7))
    assert said.startswith(f"stopped and saved; go on from {place(folder, *at)} with: ")
    assert saved(folder) == Moment(*at)
    runs.resume(run, folder)
    ends_as(whole, folder)


@pytest.mark.parametrize(
    ("first", "second"),
    [(signal.SIGINT, signal.SIGINT), (signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)],
    ids=lambda n: n.name,
)
def test_a_second_signal_ends_a_run_at_once(tmp_path, monkeypatch, whole, first, second):
    run, folder = small.recipe().build(), record.new_folder(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Backprop, "step", interrupting.struck(2, [first]))
        interrupted(run, folder, first)
    with monkeypatch.context() as patch:
        patch.setattr(Backprop, "step", interrupting.struck(10, [first, second], more=100))
        said = interrupted(run, folder, second, runs.resume)
    at = place(folder, 0, 0, 3)
    assert said == f"stopped at once; go on from {at} with: layerparallel resume {folder}"
    assert saved(folder) == Moment(0, 0, 3)
    runs.resume(run, folder)
    ends_as(whole, folder)


def test_a_second_signal_stops_the_writing_of_a_checkpoint(tmp_path, monkeypatch, whole):
    run, folder = small.recipe().build(), record.new_folder(tmp_path / "run")
    complete = checkpoint.folder.write_atomically
    with monkeypatch.context() as patch:
        patch.setattr(Backprop, "step", interrupting.struck(10, [signal.SIGINT]))
        patch.setattr(checkpoint.folder, "write_atomically", struck_once(complete, signal.SIGINT))
        said = interrupted(run, folder, signal.SIGINT)
    assert said.startswith("stopped before the first checkpoint; ")
    assert (place(folder, 0, 1, 4)).is_dir()  # half of it
    runs.resume(run, folder)
    ends_as(whole, folder)


def test_sigterm_sent_twice_is_one_signal(tmp_path, monkeypatch):
    run, folder = small.recipe().build(), record.new_folder(tmp_path)
    monkeypatch.setattr(Backprop, "step", interrupting.struck(10, [signal.SIGTERM] * 2))
    interrupted(run, folder, signal.SIGTERM)
    assert saved(folder) == Moment(0, 1, 4)


# Python drops what a handler raises in a callback of a weak reference. The run then stops a step later.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_run_interrupted_again_and_again_ends_where_the_unbroken_one_ends(tmp_path):
    run = small.recipe(epochs=40, serial_epochs=0).build()
    runs.train(run, record.new_folder(tmp_path / "whole"))
    broken, moment, work = record.new_folder(tmp_path / "broken"), random.Random(7), runs.train
    interruptions = 0
    while record.read_summary(broken) is None:
        timer = threading.Timer(
            moment.uniform(0.0, 0.3 + interruptions / 10), os.kill, (os.getpid(), signal.SIGINT)
        )
        with contextlib.suppress(KeyboardInterrupt):
            timer.start()
            work(run, broken)
            timer.cancel()
            timer.join()
        interruptions += record.read_summary(broken) is None
        work = runs.resume if (broken / record.RECORD).exists() else runs.train
    assert interruptions >= 3
    ends_as(tmp_path / "whole", broken)


def test_an_evaluation_is_ended_and_its_epoch_saved(tmp_path, monkeypatch, whole):
    run, folder = small.recipe().build(), record.new_folder(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(underway, "probe", struck_once(underway.probe, signal.SIGINT))
        said = interrupted(run, folder, signal.SIGINT)
    assert said.startswith(f"stopped and saved; go on from {place(folder, 0, 2, 0)} with: ")
    assert "validation_loss" in record.history(record.read(folder), "epoch")[-1]
    runs.resume(run, folder)
    ends_as(whole, folder)


def struck_once(work, number):
    """What sends a signal before it does its work."""

    def does(*args, **options):
        os.kill(os.getpid(), number)
        return work(*args, **options)

    return does


@both
@pytest.mark.parametrize("name", ["residuals_per_cycle", "_serial_slice", "write_summary"])
def test_at_the_end_nothing_is_lost_and_it_stops_at_once(tmp_path, monkeypatch, name, number):
    run, folder = small.recipe().build(), record.new_folder(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(ending, name, struck_once(getattr(ending, name), number))
        said = interrupted(run, folder, number)
    assert said == (
        f"stopped at once; go on from {place(folder, 0, 4, 0)} with: layerparallel resume {folder}"
    )
    assert runs.resume(run, folder).summary == record.read_summary(folder)


def test_the_serial_slice_is_stopped_in_its_steps(tmp_path, monkeypatch):
    run, folder = small.recipe().build(), record.new_folder(tmp_path)
    monkeypatch.setattr(Backprop, "step", interrupting.struck(30, [signal.SIGINT], more=100))
    said = interrupted(run, folder, signal.SIGINT)
    assert said.startswith(f"stopped at once; go on from {place(folder, 0, 4, 0)} with: ")


def test_after_the_summary_the_run_has_ended(tmp_path, monkeypatch):
    run, folder = small.recipe().build(), record.new_folder(tmp_path)
    write = ending.write_summary
    monkeypatch.setattr(
        ending, "write_summary", lambda *all: (write(*all), os.kill(os.getpid(), signal.SIGINT))
    )
    assert interrupted(run, folder, signal.SIGINT) == (
        "stopped after the run had ended; draw its plots and its report with: "
        f"layerparallel resume {folder}"
    )


@both
def test_before_the_first_step_there_is_nothing_to_go_on_from(tmp_path, whole, number):
    run, folder = small.recipe().build(), record.new_folder(tmp_path)
    (phase,) = run.phases
    early = replace(run, phases=(replace(phase, build=struck_once(phase.build, number)),))
    assert interrupted(early, folder, number) == (
        f"stopped before the first checkpoint; begin again with: layerparallel resume {folder}"
    )
    assert saved(folder) is None
    runs.resume(run, folder)
    ends_as(whole, folder)


def test_between_two_networks_of_growing_depth_it_stops_at_once(tmp_path):
    options = {"refine": (8,), "refine_epochs": 2, "epochs": 2, "serial_epochs": 0}
    run = small.recipe(**options).build()
    runs.train(run, record.new_folder(tmp_path / "whole"))
    folder = record.new_folder(tmp_path / "run")
    first, second = run.phases
    second = replace(second, build=struck_once(second.build, signal.SIGINT))
    said = interrupted(replace(run, phases=(first, second)), folder, signal.SIGINT)
    assert said.startswith(f"stopped at once; go on from {place(folder, 0, 2, 0)} with: ")
    runs.resume(run, folder)
    ends_as(tmp_path / "whole", folder)


class Cyclic:
    """What Python frees while something else runs, so that nothing it raises is heard."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_python_drops_of_a_signal_is_made_up_for_at_the_next_step(tmp_path, monkeypatch):
    run, folder = small.recipe().build(), record.new_folder(tmp_path)
    (phase,) = run.phases

    def build(network):
        Cyclic()
        return phase.build(network)

    said = interrupted(replace(run, phases=(replace(phase, build=build),)), folder, signal.SIGINT)
    assert said.startswith(f"stopped and saved; go on from {place(folder, 0, 0, 1)} with: ")


# ---- handlers ----------------------------------------------------------------------------------


def mine(*_):
    """A handler of the caller's."""


def handlers():
    return {number: signal.getsignal(number) for number in STATUS}


@pytest.mark.parametrize("how", ["ends", "is interrupted", "is interrupted twice", "fails"])
def test_handlers_are_there_while_it_runs_and_those_before_come_back(tmp_path, monkeypatch, how):
    for number in STATUS:
        signal.signal(number, mine)
    before, within = handlers(), []
    signals = {"is interrupted": [signal.SIGINT], "is interrupted twice": [signal.SIGINT] * 2}
    step = interrupting.struck(3, signals.get(how, []))

    def watched(self, x, y):
        within.append(handlers())
        if how == "fails":
            raise ZeroDivisionError
        return step(self, x, y)

    monkeypatch.setattr(Backprop, "step", watched)
    with contextlib.suppress(KeyboardInterrupt, ZeroDivisionError):
        runs.train(small.recipe(epochs=1, serial_epochs=0).build(), record.new_folder(tmp_path))
    assert len(within) == {"ends": 7, "fails": 1}.get(how, 4)
    assert all(mine not in found.values() for found in within)
    assert handlers() == before


def test_a_signal_that_is_ignored_stays_ignored(tmp_path, monkeypatch):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    monkeypatch.setattr(Backprop, "step", interrupting.struck(3, [signal.SIGINT]))
    runs.train(small.recipe(epochs=1, serial_epochs=0).build(), record.new_folder(tmp_path))
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_in_another_thread_signals_are_left_to_the_main_one(tmp_path, monkeypatch):
    before, within, reached = handlers(), [], threading.Event()
    step = interrupting.struck(3, [])

    def watched(self, x, y):
        within.append(handlers())
        reached.set()
        time.sleep(0.02)
        return step(self, x, y)

    monkeypatch.setattr(Backprop, "step", watched)
    run = small.recipe(epochs=2, serial_epochs=0).build()
    record.new_folder(tmp_path)
    thread = threading.Thread(target=runs.train, args=(run, tmp_path))
    thread.start()
    reached.wait(60)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    thread.join(60)
    assert within == [before] * 14
    assert record.read_summary(tmp_path) is not None


def test_a_child_that_was_forked_dies_of_sigterm(tmp_path, monkeypatch):
    step, statuses = Backprop.step, []

    def forks(self, x, y):
        if not statuses:
            here, there = os.pipe()
            child = os.fork()
            if not child:
                os.write(there, b"!")
                time.sleep(60)
                os._exit(0)
            os.read(here, 1)
            os.kill(child, signal.SIGTERM)
            statuses.append(os.waitpid(child, 0)[1])
        return step(self, x, y)

    monkeypatch.setattr(Backprop, "step", forks)
    runs.train(small.recipe(epochs=1, serial_epochs=0).build(), record.new_folder(tmp_path))
    assert os.WTERMSIG(statuses[0]) == signal.SIGTERM


def test_a_signal_that_comes_too_late_for_the_run_is_not_swallowed():
    def late(error=None):
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGINT)
            assert interruption.asked == signal.SIGINT
            if error:
                raise error

    with pytest.raises(KeyboardInterrupt):
        late()
    with pytest.raises(InputError):  # that went wrong first
        late(InputError("the loss became inf"))
