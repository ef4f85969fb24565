"""What a layer group is compared with: formulas are the published ones."""

import pytest
from predicting import FREE, Told, task

import layerparallel as lp
from layerparallel.group import Link
from layerparallel.predict.baselines import (
    PLAIN,
    SERIAL,
    OneRank,
    Pass,
    Split,
    all_reduce,
    data_parallel,
    pipeline,
    pipelined,
    timed,
)

WEIGHTS = 1.0


@pytest.mark.parametrize("stages", [1, 2, 5, 8])
@pytest.mark.parametrize("microbatches", [1, 2, 8, 32])
def test_bubbles_are_the_published_ones(stages, microbatches):
    each = Pass(1.0, 2.0)  # F = B = W
    total = 3.0 * microbatches

    def idle(schedule):
        return pipelined(schedule, stages, microbatches, each, WEIGHTS) - total

    share = (stages - 1) / (microbatches + stages - 1)
    assert idle("gpipe") / (total + idle("gpipe")) == pytest.approx(share)
    assert idle("1f1b") == idle("gpipe")
    if microbatches >= stages:
        assert idle("zb-h1") == pytest.approx(idle("1f1b") / 3)
    if microbatches >= 2 * stages - 1:
        assert idle("zb-h2") == pytest.approx(0)
    if microbatches == 1:  # through all stages forward and back, whatever the schedule
        assert total + idle("zb-h2") == pytest.approx(2.0 * stages + 1.0)


def test_an_all_reduce_takes_the_ring_or_the_tree():
    assert all_reduce(Link(1.0, 1.0), 80, 1) == 0
    assert all_reduce(Link(0.0, 1.0), 80, 8) == pytest.approx(2 * 7 / 8 * 80)  # ring: bytes twice
    assert all_reduce(Link(1.0, 0.0), 80, 64) == pytest.approx(2 * 6)  # tree: rounds twice


def test_data_parallel_hides_the_sum_behind_the_backward_pass():
    one = Told(task(64, batch=8))
    for ranks, link, seconds in (
        (1, FREE, 24),
        (4, FREE, 6),
        (100, FREE, 3),  # no more ranks than samples
        (4, Link(1.0, 0.0), 2 + max(4, 2 * 2)),
        (4, Link(10.0, 0.0), 2 + 2 * 2 * 10),
    ):
        assert data_parallel(one, ranks, link).seconds == seconds
    assert data_parallel(one, 100, FREE).split == Split(64, data=8)


def test_a_last_sweep_that_gives_all_gradients_at_once_hides_no_sum():
    one, link = Told(task(64, batch=8)), Link(1.0, 0.0)
    mine = Pass(2.0, 4.0)
    assert timed(Split(64, SERIAL, data=4), mine, one, link).seconds == 6
    assert timed(Split(64, lp.MGRIT(2, 8), data=4), mine, one, link).seconds == 6 + 4


def test_a_pipeline_takes_the_best_number_of_microbatches():
    one = Told(task(64, batch=8))
    assert pipeline(one, 1, FREE, "1f1b").seconds == 24
    best = pipeline(one, 4, FREE, "1f1b")
    assert best.seconds == 24 / 4 * (8 + 3) / 8
    assert best.split == Split(64, stages=4, schedule="1f1b", microbatches=8)
    slow = pipeline(one, 4, Link(3.0, 0.0), "1f1b")  # a message takes as long as a microbatch of one
    assert slow.split.microbatches < 8
    assert slow.seconds > best.seconds


def test_pipelines_of_data_parallel_ranks_have_part_of_the_batch_each():
    found = pipeline(Told(task(64, batch=8)), 2, FREE, "zb-h1", data=8)
    assert (found.split.ranks, found.split.microbatches) == (16, 1)
    assert found.seconds == pytest.approx(1 + 1 + 0.5)  # F + B on each half, and a half's W


def test_ranks_by_themselves_take_the_quicker_of_the_exact_ways():
    for factor, way in ((0.5, PLAIN), (2.0, SERIAL)):
        found = data_parallel(Told(task(64, batch=8), factor), 4, FREE)
        assert found.split.way == way
        assert found.seconds == 6 * min(factor, 1)
        assert found.error.relative == 0


def test_every_way_on_one_rank_is_measured_once_for_every_number_of_samples():
    one = OneRank(task(64, batch=64))
    ways = (SERIAL, PLAIN, lp.MGRIT(2, 8))
    for way in ways:
        assert one(way=way) is one(64, way)
        assert one(64, way).total > 0
    assert len({id(one(64, way)) for way in ways}) == 3
    assert one() is one(64, SERIAL)
    assert 0 <= one.weight_share <= 1
    for module in (one.task.network, one.task.plain):
        assert all(p.grad is None and p.requires_grad for p in module.parameters())
