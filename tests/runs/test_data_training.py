"""The trainer on images: prepared per batch, augmented in training alone, resumed bitwise."""

from dataclasses import dataclass

import pytest
import small
import torch
from torch import nn

import layerparallel as lp
from layerparallel import runs
from layerparallel.data import Augmentation, Batch, Dataset, Preparation, load
from layerparallel.runs import Phase, Run, record
from layerparallel.runs.evaluate import accuracy, logits
from layerparallel.training.backprop import Backprop

DIGITS = load("digits").part(130, 40)
PREPARE = Preparation.of(DIGITS, Augmentation(1, False), torch.float64)


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Options:
    seed: int = 0


class Watched(Backprop):
    """Keeps what the trainer hands it, and dies at a step."""

    wants_batch = True

    def __init__(self, network, optimizer, dies: int | None):
        super().__init__(network, optimizer, nn.functional.cross_entropy)
        self.dies, self.batches = dies, []

    def step(self, x, y, batch: Batch | None = None):
        assert batch is not None
        assert batch.x is x
        if len(self.batches) == self.dies:
            raise KeyboardInterrupt
        self.batches.append(batch)
        return super().step(x, y)


def run(data: Dataset = DIGITS, dies: int | None = None, **options) -> tuple[Run, list[Watched]]:
    """Three epochs of 7 mini batches, the last one smaller."""
    methods: list[Watched] = []

    def build(_):
        torch.manual_seed(0)
        opening = nn.Sequential(nn.Flatten(), nn.Linear(64, 6))
        body = lp.chain(lp.Dense(6), depth=8, T=1.0)
        network = lp.Network(opening, body, nn.Linear(6, 10), lp.MGRIT(coarsening=4)).double()
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
        methods.append(Watched(network, optimizer, dies))
        return methods[-1]

    phases = (Phase("digits", 3, build),)
    return Run("digits", Options(), data, phases, 20, 0, prepare=PREPARE, **options), methods


def test_methods_are_told_the_samples_and_their_crops(tmp_path):
    plan, methods = run()
    runs.train(plan, record.new_folder(tmp_path))
    batches = methods[0].batches
    assert [len(batch.y) for batch in batches[:7]] == [20, 20, 20, 20, 20, 20, 10]
    for epoch in range(3):
        index = torch.cat([batch.index for batch in batches[7 * epoch : 7 * epoch + 7]])
        assert sorted(index.tolist()) == list(range(130))
    for batch in batches:
        assert batch.drawn is not None
        assert torch.equal(batch.x, PREPARE(DIGITS.train_x[batch.index], batch.drawn))
        assert torch.equal(batch.y, DIGITS.train_y[batch.index])
    assert DIGITS.train_x.dtype == torch.uint8


@pytest.mark.parametrize("dies", [0, 3, 7, 16])
def test_an_augmented_run_broken_at_any_step_ends_bitwise_the_same(tmp_path, dies):
    plan, methods = run()
    runs.train(plan, record.new_folder(tmp_path / "whole"))
    broken, first = run(dies=dies, checkpoint_seconds=0.0)
    folder = record.new_folder(tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt):
        runs.train(broken, folder)
    again, second = run(checkpoint_seconds=0.0)
    runs.resume(again, folder)
    assert small.same(small.final_state(tmp_path / "whole"), small.final_state(folder))
    whole, resumed = methods[0].batches, second[-1].batches
    assert dies <= 21 - len(resumed) + 1  # at most one step is done over
    for batches, others in ((whole[:dies], first[0].batches), (whole[-len(resumed) :], resumed)):
        for one, other in zip(batches, others, strict=True):
            assert torch.equal(one.x, other.x)


def test_evaluation_is_normalised_and_not_augmented(tmp_path):
    plan, _ = run()
    outcome = runs.train(plan, record.new_folder(tmp_path))
    net, x, y = outcome.network, DIGITS.validation_x, DIGITS.validation_y
    prepared = logits(net, PREPARE(x))
    assert torch.equal(logits(net, x, prepare=PREPARE), prepared)
    parts = logits(net, x, batch=7, prepare=PREPARE)
    assert torch.allclose(parts, prepared, rtol=1e-12)
    share = (prepared.argmax(1) == y).double().mean().item()
    assert accuracy(net, x, y, prepare=PREPARE) == share
    assert outcome.summary["validation_accuracy"] == share
