"""Auxiliary variables on ranks, one stage each: bit by bit the numbers of one process."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from auxiliary_problem import images, made, network, train
from torch import Tensor, nn

from layerparallel import checkpoint
from layerparallel.data.augment import Augmentation
from layerparallel.data.batches import Batch
from layerparallel.errors import InputError
from layerparallel.group import ALONE, Group
from layerparallel.staged import Staged
from layerparallel.training.auxiliary import AuxiliaryMethod

CUTS = {2: (3,), 3: (2, 4), 5: (1, 2, 3, 4)}
HYBRID = {"parallel": 2, "serial": 1, "schedule": "alternating", "beta_growth": 1.5}


def method_on(group: Group, stages: int, **settings: Any) -> tuple[AuxiliaryMethod, Tensor, Tensor]:
    x, y = images()
    net = Staged(network(norm=True), CUTS[stages])
    if not group.alone:
        net.distribute(group)
    return made(net, x, **settings), x, y


def trained(
    group: Group, stages: int, epochs: range, settings: dict[str, Any], state: Any = None
) -> dict[str, Any]:
    """Epochs of training: all that there is afterwards, and what was recorded on the way."""
    method, x, y = method_on(group, stages, **settings)
    if state is not None:
        method.load_state_dict(state)
    losses, lines = [], []
    for epoch in epochs:
        losses += train(method, x, y, range(epoch, epoch + 1))
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


def messages(group: Group, kind: str) -> list[tuple[int, int]]:
    """Peer and bytes of everything that a rank sends in one parallel step."""
    method, x, y = method_on(group, 3, method=kind, filter="pool:2+int8")
    method.begin_epoch(0)
    sent: list[tuple[int, int]] = []
    exchange = group.exchange

    def counted(sends: Any, receives: Any) -> Any:
        sent.extend((peer, a.nbytes) for peer, a in sends)
        return exchange(sends, receives)

    group.exchange = counted  # type: ignore[method-assign]
    try:
        method.step(x[:10], y[:10], batch=Batch(x[:10], y[:10], torch.arange(10)))
    finally:
        del group.exchange  # type: ignore[attr-defined]
    return sent


@pytest.mark.parametrize(("kind", "copies"), [("penalty", 1), ("augmented", 2)])
def test_only_kept_rows_travel(pool, kind, copies):
    """Rows of 36 bytes and a scale to the left, 36 numbers of float64 to the right, one loss to all."""
    first, middle, last = pool.run(3, messages, kind)
    rows = [(10 * 36), (10 * 4)] * copies
    assert first == [(1, 10 * 36 * 8)]
    assert middle == [*[(0, size) for size in rows], (2, 10 * 36 * 8)]
    assert last[: len(rows)] == [(1, size) for size in rows]
    assert sorted(last[len(rows) :]) == [(0, 16), (1, 16)]


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
