"""What ranks notice of each other, and what they do not take for a failure."""

import contextlib
import os
import signal
import sys
import time

import torch
from launching import launch
from torch.utils.data import DataLoader

from layerparallel.group import watch
from layerparallel.group.lookout import Patience
from layerparallel.group.ranks import Ranks
from layerparallel.group.start import start, stop

PATIENCE = Patience(silence=2.0, grace=1.0)


def joined() -> Ranks:
    return Ranks(start(device="cpu", patience=PATIENCE)["layer"])


def total(group) -> float:
    return float(group.total(torch.ones(())))


# ---- on the ranks -------------------------------------------------------------------------------


def waits_for_one_that_is_long_at_work(seconds):
    group = joined()
    if group.rank == 1:
        time.sleep(seconds)
        end = time.monotonic() + seconds
        while time.monotonic() < end:  # in Python, too
            sum(range(1000))
    found = total(group)
    stop()
    return found


def loads_data_by_processes():
    """Whose end is none of a rank."""
    group = joined()
    before = signal.getsignal(signal.SIGTERM)
    found = []
    for _ in range(2):
        loader = DataLoader(list(range(8)), batch_size=2, num_workers=1)  # type: ignore[arg-type]
        found += [int(batch.sum()) for batch in loader]
    child = os.fork()
    if not child:
        time.sleep(30)
        os._exit(0)
    os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    ended = os.WTERMSIG(status)
    time.sleep(2 * PATIENCE.beat)
    result = found, ended, total(group)
    stop()
    return result, before != signal.SIG_DFL, signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def leaves_early():
    group = joined()
    if group.rank == 1:
        stop()
        return
    total(group)
    raise AssertionError("somebody answered")


def catches_its_own_error():
    group = joined()
    if group.rank == 1:
        with contextlib.suppress(ValueError):
            try:
                raise ValueError("no such sample\nin this set")
            except ValueError as error:
                watch.report(error)
                raise
        time.sleep(60)
    total(group)


def raises_what_gloo_raises():
    """As DistributedDataParallel does, which knows nothing of the watch."""
    group = joined()
    if group.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    torch.distributed.all_reduce(torch.ones(()), group=group.mesh.get_group())


def waits_for_ever():
    group = joined()
    print("there", flush=True)
    if group.rank == 1:
        time.sleep(60)
    total(group)


def exits(status):
    group = joined()
    if group.rank == 1:
        sys.exit(status)
    total(group)


# ---- and what comes of it -----------------------------------------------------------------------


def sentence(rank):
    """The one sentence that a rank said."""
    (line,) = [line for line in rank.said.splitlines() if line.startswith("Rank ")]
    assert line.endswith(", so rank 0 ends, too.")
    return line


def test_who_works_for_long_is_alive(tmp_path):
    ranks = launch(3, tmp_path, waits_for_one_that_is_long_at_work, 1.25 * PATIENCE.silence)
    assert [rank.returned() for rank in ranks] == [3.0] * 3


def test_processes_that_a_rank_forks_are_no_ranks(tmp_path):
    ranks = launch(2, tmp_path, loads_data_by_processes)
    expected = ([1, 5, 9, 13] * 2, signal.SIGTERM, 2.0)
    assert [rank.returned() for rank in ranks] == [(expected, True, True)] * 2


def test_who_waits_for_one_that_has_left_is_told(tmp_path):
    first, second = launch(2, tmp_path, leaves_early)
    second.returned()
    assert first.status() != 0
    assert "had left before the others were done" in sentence(first)


def test_who_catches_its_error_can_report_it(tmp_path):
    begin = time.monotonic()
    first, second = launch(2, tmp_path, catches_its_own_error)
    assert first.status() == watch.STATUS  # its main thread waits inside gloo
    assert " raised ValueError: no such sample, so rank 0 ends" in sentence(first)
    assert second.status() == watch.STATUS
    assert time.monotonic() - begin < 30


def test_errors_of_gloo_elsewhere_are_explained(tmp_path):
    first, second = launch(2, tmp_path, raises_what_gloo_raises)
    assert second.status() == -signal.SIGKILL
    assert first.status() == 1
    assert "Rank 1 (" in sentence(first)
    assert "Traceback" not in first.said


def test_sigterm_ends_a_rank_that_waits(tmp_path):
    ranks = launch(2, tmp_path, waits_for_ever)
    while not all("there" in rank.said for rank in ranks):
        time.sleep(0.01)
    os.kill(ranks[0].process.pid, signal.SIGTERM)
    assert ranks[0].status(PATIENCE.grace + 5) == 128 + signal.SIGTERM
    os.kill(ranks[1].process.pid, signal.SIGKILL)
    ranks[1].status()


def test_who_exits_is_named(tmp_path):
    first, second = launch(2, tmp_path, exits, 3)
    assert second.status() == 3
    assert first.status() != 0
    assert "had left before the others were done" in sentence(first)
