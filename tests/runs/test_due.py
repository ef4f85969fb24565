"""What a killed run loses: checkpoints come so many seconds after each other."""

import time
from dataclasses import replace
from typing import Any

import pytest
import small

from layerparallel import recipes, runs
from layerparallel.group import ALONE
from layerparallel.runs import checkpoint, record, shares
from layerparallel.runs.interruption import Interruption
from layerparallel.runs.shares import Due
from layerparallel.training.backprop import Backprop

pytestmark = pytest.mark.slow


def test_checkpoints_are_so_many_seconds_apart_within_epochs_and_across_them(tmp_path, monkeypatch):
    step, save, times = Backprop.step, checkpoint.save, []

    def slow(self, x, y):
        time.sleep(0.02)
        return step(self, x, y)

    def noted(*args, **options):
        found = save(*args, **options)
        times.append((time.monotonic(), str(args[1])))
        return found

    monkeypatch.setattr(shares, "TIMES", 0)  # writing takes long on a busy machine
    monkeypatch.setattr(Backprop, "step", slow)
    monkeypatch.setattr(checkpoint, "save", noted)
    began = time.monotonic()
    run = replace(small.recipe(epochs=2, batch=2, serial_epochs=0).build(), checkpoint_seconds=0.5)
    runs.train(run, record.new_folder(tmp_path))
    gaps = [b - a for a, b in zip([began, *(t for t, _ in times)], [t for t, _ in times], strict=False)]
    assert all(gap >= 0.5 for gap in gaps[:-1])
    assert len(times) >= 3
    steps = [int(moment.rpartition("-")[2]) for _, moment in times]
    assert any(steps)  # not at the ends of epochs only
    assert not all(steps)


def test_writing_takes_a_twentieth_of_the_time_at_most():
    due = Due(0.5, ALONE, Interruption())
    assert not due.now()
    time.sleep(0.6)
    assert due.now()
    due.restart(0.1)  # 2 s are twenty times as long
    time.sleep(0.6)
    assert not due.now()
    time.sleep(1.5)
    assert due.now()
    always = Due(0.0, ALONE, Interruption())
    always.restart(100.0)
    assert always.now()


@pytest.mark.parametrize("name", recipes.names())
def test_no_recipe_loses_more_than_a_minute(name):
    options: Any = recipes.get(name)()
    assert options.checkpoint_seconds == 60
