"""The primitives and verbs of a layer group, in real processes."""

import copy
import pickle

import pool as pools
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerparallel.group.ranks import Ranks

RANKS = (1, 2, 3, 4, 5)


# ---- on the ranks -------------------------------------------------------------------------------


def places(group):
    return group.rank, group.size, group.first, group.last


def exchanged(group, counts):
    """All to all: `counts[a][b]` tensors from rank a to rank b, of sizes 0, 1, ..."""
    sends = [
        (b, torch.full((k,), 100.0 * group.rank + 10 * b + k))
        for b in range(group.size)
        if b != group.rank
        for k in range(counts[group.rank][b])
    ]
    receives = [
        (a, torch.empty(k))
        for a in range(group.size)
        if a != group.rank
        for k in range(counts[a][group.rank])
    ]
    group.exchange(sends, receives).wait()
    return [(a, buffer) for a, buffer in receives]


def never_waited(group, messages):
    """Sends that nobody waits for, of tensors that nobody keeps."""
    for k in range(messages):
        if group.first and not group.last:
            group.exchange([(1, torch.full((1000,), float(k)))], [])
    found = []
    if group.rank == 1:
        for _ in range(messages):
            buffer = torch.empty(1000)
            group.exchange([], [(0, buffer)]).wait()
            found.append(buffer.unique().tolist())
    group.total(torch.zeros(1))
    return found


def totals(group, values):
    return [group.total(torch.tensor(row[group.rank], dtype=torch.float64)) for row in values]


def total_leaves_its_argument(group):
    value = torch.full((2, 3), float(group.rank)).t().requires_grad_()
    total = group.total(value)
    return value.detach().clone(), total


def broadcasts(group, source, size):
    value = torch.full((size, 2), float(group.rank), dtype=torch.float64).t()  # not contiguous
    group.broadcast(value, source)
    return value


def told(group, sizes):
    return [group.tell({"from": group.rank, "data": b"x" * n}, n % group.size) for n in sizes]


def gathered(group, sizes):
    return group.gather("y" * sizes[group.rank])


def shifted(group, empty):
    """One to the right, past ranks in `empty`, while something else is done."""
    there = [k for k in range(group.size) if k not in empty]
    if group.rank not in there:
        return None
    at = there.index(group.rank)
    left = there[at - 1] if at else None
    right = there[at + 1] if at + 1 < len(there) else None
    value = (torch.full((3,), float(group.rank)), torch.full((2, 2), -float(group.rank)))
    into = (torch.full((3,), -1.0), torch.full((2, 2), 1.0))
    group.shift(value, right, left, into).wait()
    return into


def relayed(group):
    before = group.rank - 1 if group.rank else None
    behind = group.rank + 1 if not group.last else None
    begin = (torch.ones(4, dtype=torch.float64),)
    return group.relay(begin, behind, before, lambda u: (2 * u[0] + group.rank,))


def moved(group, have, want):
    mine = have[group.rank]
    rows = torch.arange(mine.start, mine.stop, dtype=torch.float64)
    weight = 1.0 + group.rank
    return group.move((weight * rows, weight * rows.view(-1, 1, 1).expand(-1, 2, 3)), have, want)


def copied(group):
    layer = torch.nn.Linear(2, 2)
    layer.group = group
    twin = copy.deepcopy(layer)
    again = pickle.loads(pickle.dumps(group))
    return (
        twin.group is group,
        (again.rank, again.size, again.link == group.link),
        float(again.total(torch.ones(()))),
    )


def linked(group):
    return group.link, Ranks(group.mesh, link=group.link).link is group.link


def fails_on(group, rank):
    if group.rank == rank:
        raise ValueError(f"rank {rank} is out of sorts")
    return group.total(torch.ones(1))


def hangs_on(group, rank):
    if group.rank == rank:
        return None
    return group.exchange([], [(rank, torch.empty(1))]).wait()


# ---- and what comes of it -----------------------------------------------------------------------


@pytest.mark.parametrize("ranks", RANKS)
def test_every_rank_knows_its_place(pool, ranks):
    assert pool.run(ranks, places) == [(r, ranks, r == 0, r == ranks - 1) for r in range(ranks)]


@pytest.mark.parametrize("ranks", RANKS)
@given(data=st.data())
@settings(max_examples=10)
def test_messages_arrive_in_order_and_those_without_elements_do_no_harm(pool, ranks, data):
    row = st.lists(st.integers(0, 4), min_size=ranks, max_size=ranks)
    counts = data.draw(st.lists(row, min_size=ranks, max_size=ranks))
    for rank, found in enumerate(pool.run(ranks, exchanged, counts)):
        expected = [
            (a, [100.0 * a + 10 * rank + k] * k)
            for a in range(ranks)
            if a != rank
            for k in range(counts[a][rank])
        ]
        assert [(a, buffer.tolist()) for a, buffer in found] == expected


def test_a_send_that_nobody_waits_for_arrives(pool):
    found = pool.run(2, never_waited, 30)
    assert found[1] == [[float(k)] for k in range(30)]


@pytest.mark.parametrize("ranks", RANKS)
@given(data=st.data())
@settings(max_examples=10)
def test_a_total_is_the_sum_and_the_same_bits_everywhere(pool, ranks, data):
    number = st.floats(-1e9, 1e9)
    row = st.lists(st.lists(number, min_size=3, max_size=3), min_size=ranks, max_size=ranks)
    values = data.draw(st.lists(row, min_size=1, max_size=3))
    results = pool.run(ranks, totals, values)
    for found in results:
        for total, value, first in zip(found, values, results[0], strict=True):
            assert torch.equal(total.view(torch.int64), first.view(torch.int64))
            exact = torch.tensor(value, dtype=torch.float64).sum(0)
            scale = torch.tensor(value, dtype=torch.float64).abs().sum(0)
            assert ((total - exact).abs() <= 1e-15 * ranks * scale).all()


@pytest.mark.parametrize("ranks", RANKS)
def test_a_total_leaves_its_argument(pool, ranks):
    for rank, (value, total) in enumerate(pool.run(ranks, total_leaves_its_argument)):
        assert (value == rank).all()
        assert (total == sum(range(ranks))).all()
        assert total.shape == (3, 2)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_a_broadcast_fills_from_every_source(pool, ranks, size):
    for source in range(ranks):
        for value in pool.run(ranks, broadcasts, source, size):
            assert value.shape == (2, size)
            assert (value == source).all()


@pytest.mark.parametrize("ranks", RANKS)
def test_objects_of_all_sizes_are_told_and_gathered(pool, ranks):
    sizes = [0, 1, 900, 960, 970, 980, 990, 1000, 1010, 1016, 1024, 100_000]
    for found in pool.run(ranks, told, sizes):
        assert found == [{"from": n % ranks, "data": b"x" * n} for n in sizes]
    for start in range(len(sizes) - ranks):
        chosen = sizes[start : start + ranks]
        for found in pool.run(ranks, gathered, chosen):
            assert found == ["y" * n for n in chosen]


@pytest.mark.parametrize("ranks", RANKS)
def test_a_shift_goes_to_the_next_rank_that_has_something(pool, ranks):
    for empty in ({}, {0}, {1}, {1, 2}, {ranks - 1}):
        there = [k for k in range(ranks) if k not in empty]
        found = pool.run(ranks, shifted, empty)
        for rank in range(ranks):
            if rank not in there:
                assert found[rank] is None
            elif rank == there[0]:  # without a source the buffers are untouched
                assert (found[rank][0] == -1).all()
            else:
                before = there[there.index(rank) - 1]
                assert (found[rank][0] == before).all()
                assert (found[rank][1] == -before).all()


@pytest.mark.parametrize("ranks", RANKS)
def test_a_relay_goes_through_all_ranks(pool, ranks):
    value = 1.0
    for rank, (found,) in enumerate(pool.run(ranks, relayed)):
        value = 2 * value + rank
        assert (found == value).all()


RANGE = st.tuples(st.integers(0, 12), st.integers(0, 12)).map(lambda ab: range(min(ab), max(ab)))


@pytest.mark.parametrize("ranks", RANKS)
@given(data=st.data())
@settings(max_examples=25)
def test_rows_are_moved_and_those_of_several_ranks_added(pool, ranks, data):
    ranges = st.lists(RANGE, min_size=ranks, max_size=ranks)
    have = data.draw(ranges)
    want = data.draw(ranges) if ranks > 1 else have  # alone there is nowhere to get rows from
    found = pool.run(ranks, moved, have, want)
    if have == want:  # nobody wants anything new
        weights = [[1.0 + rank] * len(rows) for rank, rows in enumerate(have)]
    else:
        weights = [[sum(1.0 + k for k, h in enumerate(have) if n in h) for n in rows] for rows in want]
    for rows, weight, (flat, blocks) in zip(want, weights, found, strict=True):
        expected = torch.tensor(weight, dtype=torch.float64) * torch.tensor(list(rows)).double()
        assert torch.equal(flat, expected)
        assert torch.equal(blocks, expected.view(-1, 1, 1).expand(-1, 2, 3))


@pytest.mark.parametrize("ranks", RANKS)
def test_a_group_can_be_copied_and_pickled(pool, ranks):
    assert pool.run(ranks, copied) == [(True, (r, ranks, True), ranks) for r in range(ranks)]


def test_the_link_is_measured_and_the_same_on_all_ranks(pool):
    links = pool.run(3, linked)
    assert len({link for link, _ in links}) == 1
    link, kept = links[0]
    assert kept
    assert 1e-6 < link.latency < 0.1
    assert 0 <= link.seconds_per_byte < 1e-6  # 0 where a busy machine takes longer for less


def test_a_mesh_of_several_dimensions_is_refused(pool):
    with pytest.raises(ValueError, match=r'name the dimension, as in mesh\["layer"\]'):
        pool.run_mesh((2, 2), Ranks)


def test_after_a_failure_the_pool_goes_on(pool):
    for rank in (0, 2):
        with pytest.raises(ValueError, match=f"rank {rank} is out of sorts"):
            pool.run(3, fails_on, rank)
        assert [float(t) for t in pool.run(3, fails_on, None)] == [3.0] * 3


def test_a_job_that_takes_too_long_fails_with_the_stacks_of_all(pool):
    with pytest.raises(pools.StuckError, match=r"took more than 1 s(.|\n)*rank 0\n(.|\n)*hangs_on"):
        pool.run(2, hangs_on, 1, seconds=1)
    assert pool.run(2, places) == [(0, 2, True, False), (1, 2, False, True)]
