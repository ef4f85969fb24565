"""Auxiliary variables on ranks, one stage each: bit by bit the numbers of one process."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from auxiliary_problem import images, made, network, train
from torch import Tensor, nn

from layerparallel.data.augment import Augmentation
from layerparallel.data.batches import Batch
from layerparallel.errors import InputError
from layerparallel.group import ALONE, Group
from layerparallel.runs import checkpoint
from layerparallel.staged import Staged
from layerparallel.training.auxiliary import AuxiliaryMethod

CUTS = {2: (3,), 3: (2, 4), 5: (1, 2, 3, 4)}
HYBRID = {"parallel": 2, "serial": 1, "schedule": "alternating", "beta_growth": 1.5}


def method_on(
    group: Group, stages: int, dropout: float = 0.0, **settings: Any
) -> tuple[AuxiliaryMethod, Tensor, Tensor]:
    x, y = images()
    net = Staged(network(norm=True, dropout=dropout), CUTS[stages])
    if not group.alone:
        net.distribute(group)
    return made(net, x, **settings), x, y


def trained(
    group: Group,
    stages: int,
    epochs: range,
    settings: dict[str, Any],
    state: Any = None,
    expecting: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Any]:
    """Epochs of training: all that there is afterwards, and what was recorded on the way."""
    method, x, y = method_on(group, stages, **settings)
    if state is not None:
        method.load_state_dict(state)
    losses, lines = [], []
    for epoch in epochs:
        losses += train(method, x, y, range(epoch, epoch + 1), expecting=expecting)
        lines.append(method.epoch_line())
    return {"losses": losses, "lines": lines, "state": copy.deepcopy(method.state_dict())}


def merged(states: list[Any]) -> Any:
    """The nested states of all ranks as one."""
    if not isinstance(states[0], dict):
        return states[0]
    keys = dict.fromkeys(key for each in states for key in each)
    return {key: merged([each[key] for each in states if key in each]) for key in keys}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


@pytest.mark.parametrize("ranks", [2, 3, 5])
@pytest.mark.parametrize(
    ("kind", "filter"),
    [
        ("penalty", "none"),
        ("augmented", "none"),
        ("augmented", "pool:2+int8"),
        ("augmented", "lowrank:2+bf16"),
    ],
)
def test_training_is_that_of_one_process(pool, ranks, kind, filter):
    settings = {"method": kind, "filter": filter}
    one = trained(ALONE, ranks, range(2), settings)
    found = pool.run(ranks, trained, ranks, range(2), settings)
    for each in found:
        assert each["losses"] == one["losses"]
        assert each["lines"] == one["lines"]
    whole = merged([each["state"] for each in found])
    for part in ("network", "store", "optimizers", "schedulers", "violations"):
        assert same(whole[part], one["state"][part]), part


@pytest.mark.parametrize("ranks", [2, 3])
def test_dropout_is_that_of_one_process_in_serial_and_in_parallel_epochs(pool, ranks):
    settings = {"method": "augmented", "filter": "pool:2", "dropout": 0.3, **HYBRID}
    one = trained(ALONE, ranks, range(5), settings)
    found = pool.run(ranks, trained, ranks, range(5), settings)
    for each in found:
        assert each["losses"] == one["losses"]
        assert each["lines"] == one["lines"]
    whole = merged([each["state"] for each in found])
    for part in ("network", "store", "optimizers"):
        assert same(whole[part], one["state"][part]), part


def test_dropout_differs_from_step_to_step_and_from_stage_to_stage():
    method, x, y = method_on(ALONE, 3, dropout=0.5)
    masks: list[Tensor] = []
    for module in method.network.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda _, given, kept: masks.append(kept.eq(0)))
    method.begin_epoch(0)
    masks.clear()
    for _ in range(2):
        method.step(x, y, batch=Batch(x, y, torch.arange(20)))
    assert len(masks) == 8
    for n, mask in enumerate(masks):
        assert all(not torch.equal(mask, other) for other in masks[:n])


# ---- the next mini batch ------------------------------------------------------------------------


def as_it_comes(index: Tensor) -> Tensor:
    return index


def another_one(index: Tensor) -> Tensor:
    return (index + 1) % 20


@pytest.mark.parametrize("expecting", [as_it_comes, another_one])
def test_rows_that_are_sent_ahead_change_no_number(pool, expecting):
    settings = {"method": "augmented", "filter": "pool:2+int8", **HYBRID}
    one = trained(ALONE, 3, range(5), settings)
    for found in (
        trained(ALONE, 3, range(5), settings, None, expecting),
        *pool.run(3, trained, 3, range(5), settings, None, expecting),
    ):
        assert found["losses"] == one["losses"]
        assert found["lines"] == one["lines"]


def test_a_hybrid_run_goes_on_and_back_to_one_process(pool):
    settings = {"method": "augmented", "filter": "pool:2", **HYBRID}
    one = trained(ALONE, 3, range(5), settings)
    first = pool.run(3, trained, 3, range(3), settings)
    state = merged([each["state"] for each in first])
    alone = trained(ALONE, 3, range(3, 5), settings, state)
    ranks = pool.run(3, trained, 3, range(3, 5), settings, state)
    steps = 3 * len(one["losses"]) // 5
    for found in (alone, *ranks):
        assert found["losses"] == pytest.approx(one["losses"][steps:], rel=1e-12)
        for line, wanted in zip(found["lines"], one["lines"][3:], strict=True):
            assert line["mode"] == wanted["mode"]
            assert line["violations"] == pytest.approx(wanted["violations"], rel=1e-9)
    for each in first:
        assert each["losses"] == pytest.approx(one["losses"][:steps], rel=1e-12)


def through_a_checkpoint(group: Group, folder: Path, save: bool, settings: dict[str, Any]) -> Any:
    """Losses of the epochs before, or after, a checkpoint."""
    method, x, y = method_on(group, 3, **settings)
    if save:
        losses = train(method, x, y, range(2))
        checkpoint.save(folder, checkpoint.Moment(0, 2, 0), method.state_dict(), group=group)
        return losses
    found = checkpoint.latest(folder, group)
    assert found is not None
    method.load_state_dict(found.of(method.network.state_dict()))
    return train(method, x, y, range(2, 4)), method.epoch_line()


@pytest.mark.parametrize(
    "settings",
    [{"method": "augmented", "filter": "pool:2+int8"}, {"filter": "bf16"}, {"regenerate": True}],
    ids=str,
)
def test_a_checkpoint_of_ranks_is_taken_back_by_ranks_and_by_one_process(pool, tmp_path, settings):
    one = trained(ALONE, 3, range(4), settings)
    before = pool.run(3, through_a_checkpoint, tmp_path, True, settings)
    ranks = pool.run(3, through_a_checkpoint, tmp_path, False, settings)
    alone = through_a_checkpoint(ALONE, tmp_path, False, settings)
    half = len(one["losses"]) // 2
    assert all(losses == one["losses"][:half] for losses in before)
    for losses, line in (*ranks, alone):
        assert losses == one["losses"][half:]
        assert line == one["lines"][-1]


def augmented_step(group: Group) -> dict[str, Any]:
    method, x, y = method_on(group, 3, method="augmented", augment="both")
    method.begin_epoch(0)
    for n in range(3):
        generator = torch.Generator().manual_seed(n)
        drawn = Augmentation(1, flip=True).draw(20, 8, 6, generator)
        index = torch.arange(20)
        method.step(drawn.apply(x), y, batch=Batch(drawn.apply(x), y, index, drawn))
    return copy.deepcopy(method.state_dict())


def test_augmented_samples(pool):
    one = augmented_step(ALONE)
    whole = merged(pool.run(3, augmented_step))
    for part in ("network", "store", "violations"):
        assert same(whole[part], one[part]), part


def test_regenerated_variables(pool):
    settings = {"regenerate": True, "augment": "both", "filter": "pool:2"}
    one = trained(ALONE, 3, range(2), settings)
    found = pool.run(3, trained, 3, range(2), settings)
    for each in found:
        assert each["losses"] == one["losses"]
        assert each["lines"] == one["lines"]
    whole = merged([each["state"] for each in found])
    for part in ("network", "generators", "optimizers"):
        assert same(whole[part], one["state"][part]), part


def messages(group: Group, kind: str, expecting: bool = False) -> list[list[tuple[int, int]]]:
    """Peer and bytes of everything that a rank sends, in each of two parallel steps.

    Args:
        expecting: the first one hears of the samples of the second.
    """
    method, x, y = method_on(group, 3, method=kind, filter="pool:2+int8")
    method.begin_epoch(0)
    method.step(x[:5], y[:5], batch=Batch(x[:5], y[:5], torch.arange(5)))  # in which all ranks agree
    sent: list[tuple[int, int]] = []
    found = []
    exchange = group.exchange

    def counted(sends: Any, receives: Any) -> Any:
        sent.extend((peer, a.nbytes) for peer, a in sends)
        return exchange(sends, receives)

    group.exchange = counted
    try:
        for index in (torch.arange(10), torch.arange(10, 20)):
            if expecting:
                method.expect(torch.arange(10, 20))
            method.step(x[index], y[index], batch=Batch(x[index], y[index], index))
            found.append([*sent])
            sent.clear()
    finally:
        del group.exchange
    return found


@pytest.mark.parametrize(("kind", "copies"), [("penalty", 1), ("augmented", 2)])
def test_only_kept_rows_travel(pool, kind, copies):
    """Rows of 36 bytes and a scale to the left, 36 numbers of float64 to the right, one loss to all."""
    rows = [(10 * 36), (10 * 4)] * copies
    difference = 10 * 36 * 8
    for first, middle, last in zip(*pool.run(3, messages, kind), strict=True):
        assert first == [(1, difference)]
        assert middle == [*[(0, size) for size in rows], (2, difference)]
        assert last == [*[(1, size) for size in rows], (0, 16), (1, 16)]


def test_rows_of_samples_that_are_expected_travel_between_the_steps(pool):
    """After the first step of the two, not in the second; those of its own are sent at its beginning."""
    difference, rows = 10 * 36 * 8, [10 * 36, 10 * 4]
    first, middle, last = pool.run(3, messages, "penalty", True)
    before, after = [(0, size) for size in rows], (2, difference)
    assert first == [[(1, difference)], [(1, difference)]]
    assert middle == [[*before, after, *before], [after]]
    before = [(1, size) for size in rows]
    assert last == [[*before, (0, 16), (1, 16), *before], [(0, 16), (1, 16)]]


def mistaken(group: Group) -> str:
    class Pair(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x), x

    net = Staged(nn.Sequential(nn.Linear(3, 3), Pair(3, 3), nn.Linear(3, 2)), (1, 2))
    net.distribute(group)
    try:
        made(net, torch.randn(6, 3))
    except (InputError, RuntimeError) as error:
        return str(error)
    return "nothing"


def test_a_state_that_is_no_tensor_is_refused_on_all_ranks(pool):
    first, second, third = pool.run(3, mistaken)
    assert second.startswith("Stage 1 ends with a tuple")
    assert first == third == f"rank 1 raised InputError: {second}"


def refused(group: Group, what: str, folder: Path) -> str:
    """What a training says that cannot begin, or not go on; on one rank alone there may be no reason."""
    settings = {
        "memory": {"budget": 10_000},
        "folder": {"budget": 10_000, "folder": folder / "file"},
        "rate": {"state_rate": 1e3},
        "filter": {"filter": "pool:3"},
    }.get(what, {})
    try:
        method, x, y = method_on(group, 3, **settings)
        if what == "stages":
            net = Staged(network(norm=True), (3, 4)).distribute(group)
            made(net, x).load_state_dict(method.state_dict())
        index = torch.arange(5)
        if what == "batches" and group.rank == 2:
            index = index + 1
        method.step(x[index], y[index], batch=Batch(x[index], y[index], index))
    except InputError as error:
        return str(error)
    return "nothing"


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("memory", "need 2.3e-05 GB of memory and the budget is 1e-05 GB: give a folder"),
        ("folder", "cannot be kept in the folder"),
        ("rate", "at which auxiliary variables diverge: give less than"),
        ("filter", "of 8×6 pixels cannot be pooled by 3"),
        ("batches", "The ranks disagree on the mini batch"),
        ("stages", "of stages from pieces [0, 2, 4] and this training of [0, 3, 4]: give the same"),
    ],
)
def test_what_cannot_be_is_refused_on_all_ranks(pool, tmp_path, what, text):
    (tmp_path / "file").touch()
    found = pool.run(3, refused, what, tmp_path)
    assert len(set(found)) == 1, found
    assert text in found[0]
    assert "\n" not in found[0]
