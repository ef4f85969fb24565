"""Blocks: every step and every state on the ranks that are to have it."""

from hypothesis import given
from hypothesis import strategies as st

from layerparallel.group.blocks import Blocks


@st.composite
def blocks(draw: st.DrawFn) -> Blocks:
    steps, ranks = draw(st.integers(1, 40)), draw(st.integers(1, 7))
    cuts = sorted(draw(st.lists(st.integers(0, steps), min_size=ranks - 1, max_size=ranks - 1)))
    return Blocks.of_ends([0, *cuts, steps])


def covered(ranges: tuple[range, ...]) -> list[int]:
    return [n for r in ranges for n in r]


@given(blocks(), st.integers(1, 9))
def test_aligned_blocks_cut_no_interval(given_blocks, length):
    aligned = given_blocks.aligned(length)
    assert covered(aligned.ranges) == list(range(given_blocks.steps))
    for block in aligned.ranges:
        if block:
            assert block.start % length == 0
            assert block.stop % length == 0 or block.stop == aligned.steps
    whole = aligned.steps // length
    coarse = aligned.coarsened(length)
    if whole:
        assert covered(coarse.ranges) == list(range(whole))
        assert coarse.occupied == aligned.occupied  # what fills no interval is with one that does


@given(blocks())
def test_every_state_is_owned_once(given_blocks):
    assert covered(given_blocks.owned) == list(range(given_blocks.steps + 1))
    for points, owned in zip(given_blocks.points, given_blocks.owned, strict=True):
        assert set(owned) <= set(points)


@given(blocks())
def test_neighbours_are_the_next_ranks_with_steps(given_blocks):
    order, rank = [], given_blocks.occupied[0]
    while rank is not None:
        order.append(rank)
        before, behind = given_blocks.next_to(rank, reverse=False)
        assert given_blocks.next_to(rank, reverse=True) == (behind, before)
        rank = behind
    assert tuple(order) == given_blocks.occupied


@given(st.integers(1, 100), st.integers(1, 12))
def test_even_blocks_differ_by_one_at_most(steps, ranks):
    sizes = [len(r) for r in Blocks.even(steps, ranks).ranges]
    assert sum(sizes) == steps
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)
