"""Groups in virtual time: clocks to the digit, collectives, the verbs, errors on every rank."""

import math
import threading
from dataclasses import astuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from layerparallel.group import Link, virtual
from layerparallel.group.baton import DeadlockError
from layerparallel.group.blocks import Blocks
from layerparallel.group.member import Member
from layerparallel.group.virtual import MOST, run

FREE = Link(0.0, 0.0)
SLOW = Link(latency=2.0, seconds_per_byte=0.25)  # four bytes a second
SIZES = [1, 2, 3, 4, 5, 7, 8, 13, 16]


def counted(ranks, function, link=FREE, *args):
    """A run whose clocks advance by charges alone; no message is left over."""
    outcome = run(ranks, function, link, *args, measured=False)
    assert outcome.unread == 0
    return outcome


# ---- clocks -------------------------------------------------------------------------------------


def one_message(member: Member, before: float, meanwhile: float) -> float:
    value = torch.zeros(2)  # 8 bytes
    if member.rank == 0:
        member.charge(before)
        member.exchange([(1, value)], []).wait()
    else:
        pending = member.exchange([], [(0, value)])
        member.charge(meanwhile)
        pending.wait()
    return member.statistics.seconds


@pytest.mark.parametrize(
    ("before", "meanwhile", "waiting"), [(5.0, 0.0, 9.0), (5.0, 3.0, 6.0), (5.0, 20.0, 0.0)]
)
def test_a_message_arrives_when_the_link_says(before, meanwhile, waiting):
    outcome = counted(2, one_message, SLOW, before, meanwhile)
    arrival = before + 2 + 8 / 4
    assert outcome.results == [before, max(arrival, meanwhile)]
    sender, receiver = outcome.statistics
    assert astuple(sender) == (before, before, 0.0, 1, 8)
    assert astuple(receiver) == (max(arrival, meanwhile), meanwhile, waiting, 0, 0)
    assert outcome.seconds == max(arrival, meanwhile)


def test_a_rank_sends_one_message_after_the_other():
    def function(member):
        if member.rank == 0:
            member.exchange([(peer, torch.zeros(2)) for peer in (1, 2, 3)], []).wait()
        else:
            member.exchange([], [(0, torch.empty(2))]).wait()

    outcome = counted(4, function, SLOW)
    assert [each.seconds for each in outcome.statistics] == [0.0, 4.0, 8.0, 12.0]


@pytest.mark.parametrize("ranks", SIZES)
def test_a_relay_takes_a_message_and_its_work_from_rank_to_rank(ranks):
    def function(member):
        before = member.rank - 1 if member.rank else None
        behind = member.rank + 1 if member.rank < member.size - 1 else None

        def work(u):
            member.charge(1.0)
            return (u[0] + 1,)

        return float(member.relay((torch.zeros(1),), behind, before, work)[0])

    outcome = counted(ranks, function, SLOW)
    assert outcome.results == [float(k + 1) for k in range(ranks)]
    assert outcome.seconds == ranks + (ranks - 1) * SLOW.seconds(4)


def test_messages_between_two_ranks_keep_their_order():
    def function(member):
        if member.rank == 0:
            for k in range(3):
                member.exchange([(1, torch.full((1,), float(k)))], [])
            return None
        buffers = [torch.empty(1) for _ in range(3)]
        pending = [member.exchange([], [(0, buffer)]) for buffer in buffers]
        for each in reversed(pending):  # waited for in another order than posted
            each.wait()
        return [float(buffer) for buffer in buffers]

    assert counted(2, function).results[1] == [0.0, 1.0, 2.0]


def test_what_is_sent_is_a_copy():
    def function(member):
        value = torch.ones(3)
        if member.rank == 0:
            member.exchange([(1, value)], []).wait()
            value.zero_()
            return None
        member.exchange([], [(0, value.zero_())]).wait()
        return value

    assert torch.equal(counted(2, function).results[1], torch.ones(3))


def test_ranks_align_to_the_latest_clock_and_restart_from_zero():
    def function(member):
        member.charge(float(member.rank))
        aligned = member.align()
        member.restart()
        member.charge(1.0)
        return aligned

    outcome = counted(5, function)
    assert outcome.results == [4.0] * 5
    assert [astuple(each) for each in outcome.statistics] == [(1.0, 1.0, 0.0, 0, 0)] * 5


def test_measured_clocks_book_computing_where_it_is_done():
    def function(member):
        a, b = torch.rand(200, 200), torch.empty(1)
        member.restart()
        if member.rank == 0:
            for _ in range(20):
                a = torch.tanh(a @ a)
            sent = member.statistics.seconds
            member.exchange([(1, a[:1, :1].contiguous().view(1))], []).wait()
            return sent
        member.exchange([], [(0, b)]).wait()
        return member.statistics.seconds

    outcome = run(2, function, Link(1.0, 0.0))
    worker, waiter = outcome.statistics
    sent, received = outcome.results
    assert sent > 0
    assert received == pytest.approx(1 + sent, abs=1e-2)
    assert worker.waiting == 0
    assert waiter.waiting > 0.9
    for each in (worker, waiter):
        assert each.compute > 0
        assert each.seconds == pytest.approx(each.compute + each.waiting)


class Told(virtual.Clock):
    """A clock of each rank that stands still unless it is moved."""

    def __init__(self, measured: bool):
        self.at = {0: [0.0], 1: [0.0]}
        self.now = lambda: self.at[int(threading.current_thread().name)][0]
        self.reading = 0.0


def test_timed_work_takes_the_median_of_every_piece(monkeypatch):
    monkeypatch.setattr(virtual, "Clock", Told)
    taken = {0: [80.0, 90.0, 1.0, 9.0, 1.0, 70.0], 1: [80.0, 90.0, 2.0, 2.0, 7.0, 70.0]}  # of each round

    def function(member):
        clock, rounds, seen = member._clock.at[member.rank], iter(taken[member.rank]), []

        def work():
            clock[0] += next(rounds)
            seen.append(member.gather(member.rank))
            clock[0] += 0.5
            return len(seen)

        assert member.timed(work, rounds=3) == 6  # the first two and the last with all others
        assert seen == [[0, 1]] * 6
        return member.statistics.seconds

    outcome = run(2, function, Link(10.0, 0.0))
    assert outcome.unread == 0
    assert outcome.results == [2.0 + 10.0 + 0.5, 2.0 + 10.0 + 10.0 + 0.5]  # inwards, outwards
    assert [each.messages for each in outcome.statistics] == [1, 1]


def test_timed_work_leaves_the_values_of_the_group_and_counts_charges_once():
    def function(member):
        state = torch.tensor([float(member.rank)])

        def work():
            member.charge(3.0)
            state.add_(member.total(torch.ones(1)))
            return state.clone()

        found = member.timed(work, rounds=2)
        assert torch.equal(found, state)
        return float(found), member.statistics.compute

    assert counted(3, function).results == [(k + 5 * 3.0, 3.0) for k in range(3)]


@pytest.mark.parametrize("more", [1, -1])
def test_work_that_is_not_the_same_every_time_is_refused(more):
    def function(member):
        rounds = iter([2, 2, 2, 2 + more, 2])
        member.timed(lambda: [member.gather(None) for _ in range(next(rounds))], rounds=2)

    with pytest.raises(RuntimeError, match="do the same in every round"):
        counted(2, function)


# ---- collectives --------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", SIZES)
@pytest.mark.parametrize("source", [0, -1])
def test_collectives_give_what_they_should(ranks, source):
    source %= ranks
    torch.manual_seed(0)
    values = torch.rand(ranks, 3, dtype=torch.float64)

    def function(member):
        mine = values[member.rank].clone()
        total = member.total(mine)
        assert torch.equal(mine, values[member.rank])  # left as it was
        told = member.tell({"of": member.rank}, source)
        gathered = member.gather(("rank", member.rank))
        member.broadcast(mine, source)
        return total, mine, told, gathered

    results = counted(ranks, function).results
    for total, broadcast, told, gathered in results:
        assert torch.equal(total, results[0][0])  # the same bits everywhere
        assert torch.allclose(total, values.sum(0), rtol=1e-14)
        assert torch.equal(broadcast, values[source])
        assert told == {"of": source}
        assert gathered == [("rank", k) for k in range(ranks)]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5, 8, 64])
def test_collectives_cost_their_messages(ranks):
    rounds = math.ceil(math.log2(ranks))
    link = Link(latency=1.0, seconds_per_byte=0.0)

    def cost(function):
        outcome = counted(ranks, function, link)
        return outcome.seconds, sum(each.messages for each in outcome.statistics)

    assert cost(lambda m: m.broadcast(torch.zeros(1), 0)) == (rounds, ranks - 1)
    assert cost(lambda m: m.tell(1, ranks - 1)) == (rounds, ranks - 1)
    inwards = int(math.log2(ranks))  # the longest path to rank 0: it receives side by side
    more = ranks - 2**inwards  # ranks beyond the power of 2, which hand theirs over and get the sum
    doubling = (inwards + 2 * (more > 0), 2**inwards * inwards + 2 * more)
    assert cost(lambda m: m.total(torch.zeros(1))) == doubling
    assert cost(lambda m: m.gather(m.rank)) == (inwards + rounds, 2 * (ranks - 1))


def test_messages_have_the_bytes_of_their_tensors():
    def function(member):
        member.broadcast(torch.zeros(10, dtype=torch.float64), 0)

    statistics = counted(8, function).statistics
    assert sum(each.bytes for each in statistics) == 7 * 80
    assert statistics[0].bytes == 3 * 80


# ---- verbs --------------------------------------------------------------------------------------

ends = st.lists(st.integers(0, 9), min_size=1, max_size=5)


@given(first=ends, second=ends, data=st.data())
def test_rows_move_to_where_they_are_wanted(first, second, data):
    ranks, rows = len(first), 9
    have = Blocks.of_ends([0, *sorted(first)[:-1], rows]).ranges
    cut = sorted((second * ranks)[: ranks - 1])
    want = Blocks.of_ends([0, *cut, rows]).ranges
    if data.draw(st.booleans()):
        want = Blocks.everywhere(rows, ranks).ranges
    whole = torch.arange(rows * 2.0).view(rows, 2), torch.arange(rows * 1.0)

    def function(member):
        mine = have[member.rank]
        return member.move([a[mine.start : mine.stop] for a in whole], have, want)

    for wanted, found in zip(want, counted(ranks, function).results, strict=True):
        for a, b in zip(whole, found, strict=True):
            assert torch.equal(a[wanted.start : wanted.stop], b)


def test_a_shift_overlaps_with_what_is_computed_meanwhile():
    def function(member):
        rank, last = member.rank, member.size - 1
        into = (torch.empty(2),)
        pending = member.shift(
            (torch.full((2,), float(rank)),),
            rank + 1 if rank < last else None,
            rank - 1 if rank else None,
            into if rank else None,
        )
        member.charge(10.0)
        pending.wait()
        return float(into[0][0]) if rank else None

    outcome = counted(4, function, SLOW)
    assert outcome.results == [None, 0.0, 1.0, 2.0]
    assert outcome.seconds == 10.0
    assert all(each.waiting == 0 for each in outcome.statistics)


# ---- what threads share -------------------------------------------------------------------------


def test_every_rank_has_random_numbers_of_its_own():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    before = torch.get_rng_state()

    def function(member):
        found = []
        for _ in range(4):
            found.append(torch.rand(1))
            member.gather(None)  # the others have their turn
        with torch.random.fork_rng():
            member.gather(torch.rand(2))
        return torch.cat(found)

    for found in counted(3, function).results:
        assert torch.equal(found, expected)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("enabled", [True, False])
def test_grad_mode_is_the_callers(enabled):
    with torch.set_grad_enabled(enabled):
        assert counted(2, lambda member: torch.is_grad_enabled()).results == [enabled] * 2


@pytest.mark.parametrize("ranks", [1, 2, 3, 6])
def test_backward_passes_run_on_every_rank_at_once(ranks):
    """A pipeline by hand: stages forward by a relay, backward by another in the other direction."""
    torch.manual_seed(0)
    layers = [nn.Linear(4, 4).double() for _ in range(6)]
    weights = [layer.weight for layer in layers]
    x = torch.rand(3, 4, dtype=torch.float64)
    nn.Sequential(*layers)(x).square().sum().backward()
    exact = [weight.grad for weight in weights]
    for weight in weights:
        weight.grad = None
    blocks = Blocks.even(6, ranks).ranges

    def function(member):
        rank, last = member.rank, member.last
        stage = nn.Sequential(*[layers[n] for n in blocks[rank]])
        before, behind = (rank - 1 if rank else None), (None if last else rank + 1)
        kept = []

        def forward(u):
            kept.append(u[0].detach().requires_grad_())
            kept.append(stage(kept[0]))
            return (kept[1].detach(),)

        def backward(g):
            kept[1].backward(2 * kept[1].detach() if last else g[0])
            return (kept[0].grad,)

        member.relay((x,), behind, before, forward)
        member.relay((torch.empty_like(x),), before, behind, backward)

    counted(ranks, function)
    for weight, gradient in zip(weights, exact, strict=True):
        assert weight.grad is not None
        assert gradient is not None
        assert torch.equal(weight.grad, gradient)


def test_a_thousand_ranks():
    def function(member):
        peer = member.rank ^ 1
        found = torch.empty(1)
        member.exchange([(peer, torch.tensor([float(member.rank)]))], [(peer, found)]).wait()
        return int(found) + int(member.total(torch.ones(())))

    assert counted(MOST, function).results == [(k ^ 1) + MOST for k in range(MOST)]


# ---- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [0, MOST + 1])
def test_a_number_of_ranks_out_of_range_is_refused(ranks):
    with pytest.raises(ValueError, match=f"{ranks} ranks are out of range.* 1 to {MOST}"):
        run(ranks, lambda member: None, FREE)


def test_what_a_rank_raises_ends_all():
    unwound = []

    def function(member):
        try:
            if member.rank == 2:
                raise KeyError("mine")
            member.gather(None)
        finally:
            unwound.append(member.rank)

    with pytest.raises(KeyError, match="mine") as caught:
        counted(5, function)
    assert caught.value.__notes__ == ["Raised on rank 2 of 5 in virtual time."]
    assert sorted(unwound) == [0, 1, 2, 3, 4]


def test_a_deadlock_says_who_waits_for_whom():
    def function(member):
        if member.rank == 3:
            return
        towards = (member.rank + 1) % 4 if member.rank != 1 else 0
        member.exchange([], [(towards, torch.empty(1))]).wait()

    with pytest.raises(DeadlockError) as caught:
        counted(4, function)
    assert str(caught.value) == (
        "deadlock, nobody can go on: rank 0 for message 0 from rank 1; rank 1 for message 0 from rank "
        "0; rank 2 for message 0 from rank 3, which has ended"
    )


def test_ranks_that_align_without_all_others_are_a_deadlock():
    with pytest.raises(DeadlockError, match="rank 0 for rank 1 to come; rank 2 for rank 1 to come"):
        counted(3, lambda member: member.rank == 1 or member.align())


def test_many_ranks_in_a_deadlock_are_not_all_named():
    def function(member):
        member.exchange([], [((member.rank + 1) % 20, torch.empty(1))]).wait()

    with pytest.raises(DeadlockError, match=r"rank 7 for message 0 from rank 8; and 12 more$"):
        counted(20, function)


@pytest.mark.parametrize("buffer", [torch.empty(3), torch.empty(2, dtype=torch.float64)])
def test_a_buffer_that_does_not_fit_is_refused(buffer):
    def function(member):
        if member.rank == 0:
            member.exchange([(1, torch.empty(2))], [])
        else:
            member.exchange([], [(0, buffer)]).wait()

    with pytest.raises(RuntimeError, match=r"rank 1 receives .* rank 0 sent 2 of torch\.float32"):
        counted(2, function)


@pytest.mark.parametrize("peer", [0, 2, -1])
def test_a_peer_that_is_none_is_refused(peer):
    def function(member):
        if member.rank == 0:
            member.exchange([(peer, torch.empty(1))], [])

    with pytest.raises(ValueError, match=f"with rank {peer}; use another of the 2 ranks"):
        counted(2, function)


def test_clocks_do_not_restart_while_a_message_is_under_way():
    def function(member):
        if member.rank == 0:
            member.exchange([(1, torch.empty(1))], [])
        member.restart()

    with pytest.raises(RuntimeError, match="1 messages are under way"):
        counted(2, function)
