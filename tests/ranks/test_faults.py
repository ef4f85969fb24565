"""Ranks that are killed, stopped or raise at random moments of a training; and what comes after."""

import math
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import pool as pools
import pytest
from scripts import script

from layerparallel.group.lookout import Patience

PATIENCE = Patience(silence=4.0, grace=1.5)
FAULTS = Path(__file__).parents[2] / "benchmarks" / "faults"


sys.path.insert(0, str(FAULTS))  # as a script has it, and the processes it starts
faults = script("benchmarks", "faults", "run.py")


@pytest.mark.parametrize("fault", faults.draw(5, 4, seed=7), ids=lambda f: f"{f.kind}-{f.rank}")
def test_all_others_end_in_time_and_name_the_rank(fault):
    row = faults.trial(fault, 4, PATIENCE)
    assert row["named"], row["said"]
    assert row["ended"]
    assert row["seconds"] <= PATIENCE.limit


def train(folder, *, ranks, steps, layers=24):
    """Of an unbroken training: the last loss, every digit of it."""
    folder.mkdir()
    arguments = [str(folder), "--steps", str(steps), "--layers", str(layers)]
    processes = faults.start(ranks, arguments, folder)
    deadline = time.monotonic() + 120
    for process in processes:
        process.join(deadline - time.monotonic())
        if process.exitcode is None:
            process.kill()
    said = "".join((folder / f"said-{r}").read_text() for r in range(ranks))
    assert [process.exitcode for process in processes] == [0] * ranks, said
    return found_loss(said)


def found_loss(said):
    (loss,) = re.findall(r"loss (\S+)", said)
    assert math.isfinite(float.fromhex(loss))
    return loss


def test_a_thousand_steps_on_four_ranks_do_not_hang(tmp_path):
    train(tmp_path / "run", ranks=4, steps=1000, layers=8)


def test_torchrun_starts_again_and_the_end_is_that_of_the_unbroken_run_to_the_last_bit(tmp_path):
    ranks, steps, every = 2, 160, 20
    unbroken = train(tmp_path / "unbroken", ranks=ranks, steps=steps)
    folder = tmp_path / "broken"
    folder.mkdir()

    def break_it() -> None:
        for rank, sign in ((1, signal.SIGKILL), (0, signal.SIGSTOP)):
            ready = [folder / f"ready-{r}" for r in range(ranks)]
            before = set((folder / "checkpoints").glob("*/manifest.json"))
            while not (
                all(file.exists() and file.read_text() for file in ready)
                and set((folder / "checkpoints").glob("*/manifest.json")) - before
            ):
                time.sleep(0.01)
            os.kill(int(ready[rank].read_text()), sign)
            for file in ready:
                file.unlink()

    threading.Thread(target=break_it, daemon=True).start()
    done = pools.torchrun(
        ranks,
        FAULTS / "broken_training.py",
        *(folder, "--steps", str(steps), "--save-every", str(every), "--silence", "4"),
        seconds=120,
        # torchrun stops the others when it sees that one has ended; they have 2 s to say it first.
        options=("--max-restarts", "2", "--monitor-interval", "2"),
    )
    assert done.returncode == 0, done.stdout
    assert "Rank 1 (" in done.stdout
    assert "Rank 0 (" in done.stdout
    begins = [int(step) for step in re.findall(r"rank 0 goes on from step (\d+)", done.stdout)]
    assert len(begins) == 2
    assert all(0 < step < steps for step in begins)
    assert found_loss(done.stdout) == unbroken
