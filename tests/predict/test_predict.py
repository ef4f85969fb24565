"""Prediction: counts in virtual time are the cost model's, formulas the published; the command."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts import script
from torch import nn

import layerparallel as lp
from layerparallel import recipes
from layerparallel.cli import main
from layerparallel.errors import InputError
from layerparallel.group import Link
from layerparallel.group.virtual import run
from layerparallel.predict import links
from layerparallel.predict.baselines import OneRank, Pass, all_reduce, data_parallel, pipeline, pipelined
from layerparallel.predict.counted import CountedDense
from layerparallel.predict.estimate import Estimator, work
from layerparallel.predict.parallel import gradient_on, shared
from layerparallel.predict.search import Search, candidates, splits
from layerparallel.predict.task import Task, from_recipe
from layerparallel.solvers import cost
from layerparallel.solvers.measure import gradients

FREE = Link(0.0, 0.0)


def network(depth, width=2, layer=lp.Dense):
    torch.manual_seed(0)
    return lp.Network(nn.Linear(2, width), lp.chain(layer(width), depth, T=1.0), nn.Linear(width, 3))


def task(depth, batch=4, **options):
    torch.manual_seed(1)
    x, y = torch.randn(batch, 2), torch.randint(3, (batch,))
    return Task("small", network, depth, x, y, repeats=1, **options)


def counted(ranks, solver, depth, link=FREE):
    """Seconds of forward and backward in step evaluations, and the evaluations of all ranks by level."""
    whole = network(depth, layer=CountedDense)
    x = torch.randn(4, 2)

    def function(member):
        mine = shared(whole)
        mine.solver = solver
        lp.distribute(mine, member)
        member.restart()
        y = mine(x)
        forward = member.align()
        y.sum().backward()
        solutions = mine.solution, mine.adjoint_solution
        assert all(each is not None for each in solutions)
        return forward, [each.evaluations for each in solutions if each is not None]

    outcome = run(ranks, function, link, measured=False)
    assert outcome.unread == 0
    forward = max(each for each, _ in outcome.results)
    levels = [
        [sum(level) for level in zip(*each, strict=True)]
        for each in zip(*(r for _, r in outcome.results), strict=True)
    ]
    charged = sum(each.compute for each in outcome.statistics)
    return forward, outcome.seconds - forward, levels, charged


# ---- counts in virtual time and those of the cost model -------------------------------------------

solvers = st.builds(
    lp.MGRIT,
    levels=st.integers(2, 4),
    coarsening=st.one_of(st.integers(2, 4), st.tuples(st.integers(2, 4), st.integers(2, 3))),
    relaxation=st.one_of(st.integers(0, 1), st.tuples(st.integers(0, 1), st.integers(0, 2))),
    cycle=st.sampled_from("VFW"),
    forward_cycles=st.integers(1, 3),
    adjoint_cycles=st.integers(1, 2),
    start=st.sampled_from(["coarse", "nested", "constant"]),
    first_down=st.booleans(),
    guard=st.just(False),
)


@settings(max_examples=25)
@given(solver=solvers, depth=st.integers(12, 40), ranks=st.integers(2, 7))
def test_evaluations_of_all_ranks_are_those_of_the_closed_form(solver, depth, ranks):
    solver = replace(solver, levels=len(solver.factors(depth)) + 1)
    _, _, (forward, adjoint), charged = counted(ranks, solver, depth)
    assert forward == cost.step_evaluations(solver, depth)
    assert adjoint == cost.step_evaluations(solver, depth, adjoint=True)
    assert charged == sum(forward) + sum(adjoint)


def test_a_coarsest_level_that_all_ranks_solve_counts_on_each():
    solver, slow = lp.MGRIT(2, 4), Link(1.0, 0.0)  # 7 messages along it, or 6 to gather it
    _, _, levels, charged = counted(8, solver, 64, slow)
    for found, adjoint in zip(levels, (False, True), strict=True):
        fine, coarse = cost.step_evaluations(solver, 64, adjoint)
        rhs = 0 if adjoint else 16  # of the right-hand sides, which are evaluated where they are
        assert found[0] == fine
        assert found[1] in (8 * coarse, 8 * (coarse - rhs) + rhs)
    assert charged == sum(map(sum, levels))


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("coarsening", [(4,), (8,), (4, 4), (2, 4)])
def test_one_cycle_takes_the_time_of_its_schedule(ranks, coarsening):
    solver = lp.MGRIT(len(coarsening) + 1, coarsening, forward_cycles=1, adjoint_cycles=1)
    times = counted(ranks, solver, 64)[:2]
    for time, adjoint in zip(times, (False, True), strict=True):
        events = cost.schedule(solver, 64, adjoint)
        assert time == sum(-(-event.intervals // ranks) * event.length for event in events)


def test_a_coarse_step_is_charged_what_it_evaluates():
    def times(**operator):
        solver = lp.MGRIT(2, 8, forward_cycles=1, adjoint_cycles=1, **operator)
        return counted(8, solver, 64)[:2]

    assert times() == (8 + 8, 8 + 8)
    assert times(coarse="mean_residual", samples=4) == (4 * 8 + 8,) * 2
    assert times(coarse="picard", samples=4) == (8 * 8 + 8,) * 2
    assert times(coarse="picard", samples=1) == (2 * 8 + 8,) * 2


@pytest.mark.parametrize(("levels", "coarsening"), [(2, 8), (3, 4)])
def test_the_critical_path_is_reached_with_a_rank_for_every_interval(levels, coarsening):
    solver = lp.MGRIT(levels, coarsening, forward_cycles=1, adjoint_cycles=1)
    forward, backward = counted(64 // coarsening, solver, 64)[:2]
    assert forward == cost.critical_path(solver, 64)
    assert backward == cost.critical_path(solver, 64, adjoint=True)


def test_more_cycles_overlap_where_the_schedule_has_one_event_after_the_other():
    """A rank goes on as soon as the coarse solve has passed it: less than the schedule, never less than
    the work of a rank."""
    solver, ranks = lp.MGRIT(2, 8), 8
    forward, _, (evaluations, _), _ = counted(ranks, solver, 64)
    assert sum(evaluations) / ranks <= forward < cost.critical_path(solver, 64)


def test_crossover_of_the_published_setting_is_near_16_cores():
    """Slides: N = 1024, coarsening 2, F- then FCF-relaxation, 2 cycles; forward, messages free."""
    solver = lp.MGRIT(7, 2, relaxation=(0, 1), start="constant")
    assert 1024 / counted(8, solver, 1024)[0] < 1 < 1024 / counted(16, solver, 1024)[0]


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize(("cycles", "relaxation"), [(1, 0), (2, 0), (3, 1)])
def test_messages_of_a_two_level_solve(ranks, cycles, relaxation):
    """Along the coarsest level once a cycle, to the next rank once a CF-relaxation, each from all ranks
    but one; and log2 P exchanges of all ranks for the norms."""
    solver = lp.MGRIT(2, 4, relaxation, forward_cycles=cycles)
    whole = network(64, width=3)

    def function(member):
        mine = shared(whole)
        mine.solver = solver
        lp.distribute(mine, member)
        body = mine.chains[0]
        chain = body.bind(body.tensors(), body.placement(4))
        member.restart()
        with torch.no_grad():
            solver.solve(chain, chain.pack((torch.ones(5, 3),)))

    statistics = run(ranks, function, FREE).statistics
    states = (cycles + relaxation * (cycles - 1)) * (ranks - 1)
    sums = ranks * (ranks.bit_length() - 1)
    assert sum(each.messages for each in statistics) == states + sums
    norms = 2 * cycles  # residuals, corrections and the scale, in float64
    assert sum(each.bytes for each in statistics) == states * 60 + sums * 8 * norms


def test_a_gradient_in_virtual_time_is_that_of_one_process():
    solver = lp.MGRIT(2, 3, coarse="picard", samples=2)
    whole = network(13, width=4).double()
    whole.solver = solver
    x = torch.randn(5, 2, dtype=torch.float64)
    whole(x).square().sum().backward()
    exact = gradients(whole)
    whole.zero_grad()

    def function(member):
        mine = lp.distribute(shared(whole), member)
        mine(x).square().sum().backward()
        return mine.chains[0].block, gradients(mine)

    for block, found in run(4, function, FREE).results:
        for name, gradient in found.items():
            reference = exact[name]
            if name.startswith("body."):
                reference = reference[block.start : block.stop]
            assert torch.allclose(gradient, reference, rtol=1e-12, atol=1e-14), name
    assert torch.equal(next(whole.parameters()), next(network(13, width=4).double().parameters()))


def test_ranks_share_the_network_until_they_keep_their_blocks():
    whole = network(8)
    mine = shared(whole)
    for p, q in zip(whole.parameters(), mine.parameters(), strict=True):
        assert p is not q
        assert p.data_ptr() == q.data_ptr()


def test_predicted_computing_shrinks_and_messages_cost():
    solver = lp.MGRIT(2, 8, forward_cycles=1, adjoint_cycles=1)
    free, dear = (gradient_on(4, task(64), solver, Link(latency, 0.0)) for latency in (0.0, 1.0))
    assert free.messages == dear.messages > 0
    assert free.bytes == dear.bytes > 0
    assert free.fallback is None
    assert dear.seconds > 10 > 1 > free.seconds > 0
    assert dear.waiting > 5


# ---- what it is compared with ---------------------------------------------------------------------

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


class Told(OneRank):
    """Times as if measured: forward 1 s, backward 2 s a sample and 64 layers, half of it for weights."""

    def __call__(self, samples=None):
        count = self.task.batch if samples is None else samples
        return Pass(count * 1.0, count * 2.0)


def test_data_parallel_hides_the_sum_behind_the_backward_pass():
    one = Told(task(64, batch=8), 0.5)
    assert data_parallel(one, 1, FREE) == 24
    assert data_parallel(one, 4, FREE) == 6
    assert data_parallel(one, 100, FREE) == 3  # no more ranks than samples
    assert data_parallel(one, 4, Link(1.0, 0.0)) == 2 + max(4, 2 * 2)
    assert data_parallel(one, 4, Link(10.0, 0.0)) == 2 + 2 * 2 * 10


def test_a_pipeline_takes_the_best_number_of_microbatches():
    one = Told(task(64, batch=8), 0.5)
    assert pipeline(one, 1, FREE, "1f1b").seconds == 24
    best = pipeline(one, 4, FREE, "1f1b")
    assert (best.seconds, best.microbatches) == (24 / 4 * (8 + 3) / 8, 8)
    slow = pipeline(one, 4, Link(3.0, 0.0), "1f1b")  # a message takes as long as a microbatch of one
    assert slow.microbatches < 8
    assert slow.seconds > best.seconds


def test_one_rank_is_measured_once_for_every_number_of_samples():
    one = OneRank(task(64, batch=64))
    assert one() is one(64)
    assert one(64).total > 0
    assert 0 <= one.weight_share <= 1
    assert all(p.grad is None for p in one.task.network.parameters())


# ---- estimates, the search, splits ----------------------------------------------------------------


@given(solver=solvers, steps=st.integers(15, 70))
def test_the_estimates_work_is_that_of_the_closed_form(solver, steps):
    solver = replace(solver, levels=len(solver.factors(steps)) + 1)
    found = work(solver, steps, 1)
    total = sum(sum(cost.step_evaluations(solver, steps, way)) for way in (False, True))
    assert found.recorded[1] + found.other[1] == total
    assert found.recorded[1] == 2 * steps
    assert found.messages == 0
    assert work(solver, steps, 4).messages > 0


def test_positions_with_many_ranks_are_the_critical_path():
    solver = lp.MGRIT(3, 4)
    found = work(solver, 64, 64)
    paths = sum(cost.critical_path(solver, 64, way) for way in (False, True))
    assert found.recorded[0] + found.other[0] == paths
    assert found.recorded[1] + found.other[1] == paths


def test_candidates_fit_the_depth():
    for steps in (4, 17, 1024):
        assert candidates(steps)
        for solver in candidates(steps):
            solver.check(steps)


def test_the_search_takes_only_what_is_exact_enough():
    rough = lp.MGRIT(2, 16, forward_cycles=1, adjoint_cycles=1)
    fine = lp.MGRIT(2, 2, coarse="picard", samples=1)
    chosen = task(64)
    search = Search.of(chosen, 1e-3, (rough, fine))
    search.estimators[chosen.batch] = Estimator(chosen, (1.0,) * 7, 0.0)
    assert search.errors(rough).relative > 1e-3 > search.errors(fine).relative
    assert search.best(4, FREE) == [fine]
    search.bound = 1.0
    assert search.best(4, FREE) == [rough, fine]  # the quicker one first


def test_splits_use_all_ranks():
    chosen = task(64, batch=8)
    search = Search.of(chosen, 1.0)
    for samples in (1, 2, 4, 8):
        search.estimators[samples] = Estimator(chosen.part(samples), (1.0,) * 7, 0.0)
    one = Told(chosen, 0.5)
    found = splits(search, one, 16, FREE, [lp.MGRIT(2, 4)])
    assert {(s.data, s.layer, s.stages) for s in found} >= {(8, 1, 2), (1, 16, 1), (2, 2, 4), (4, 4, 1)}
    assert all(s.data * s.layer * s.stages == 16 for s in found)
    assert [s.seconds for s in found] == sorted(s.seconds for s in found)
    assert all((s.layer == 1) == (s.solver == lp.Serial()) for s in found)
    plain = next(s for s in found if (s.data, s.layer, s.stages) == (8, 1, 2))
    assert plain.schedule == "zb-h1"  # one sample: through both halves, F + B each, and a half's W
    assert plain.seconds == pytest.approx(1 + 1 + 0.5)


# ---- networks -------------------------------------------------------------------------------------


def test_networks_have_names_and_files(tmp_path):
    assert links.find("none").link == FREE
    assert links.find("ethernet").link.seconds(12.5e9) == pytest.approx(1, rel=1e-3)
    assert "assumed" in str(links.find("nvlink"))
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"latency": 2e-6, "seconds_per_byte": 1e-9, "rows": []}))
    found = links.find(str(file))
    assert (found.name, found.link) == ("mine", Link(2e-6, 1e-9))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "holds no network"),
        ("nonsense", "holds no network"),
        ('{"latency": -1, "seconds_per_byte": 0}', "latency = -1.0 .* is out of range: give 0 or more"),
        (None, "cannot be read"),
    ],
)
def test_a_file_without_a_network_is_refused(tmp_path, content, said):
    file = tmp_path / "mine.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError, match=said):
        links.find(str(file))


def test_an_unknown_network_is_refused():
    with pytest.raises(InputError, match="There is no network 'nvlinc': did you mean 'nvlink'"):
        links.find("nvlinc")


def test_a_link_is_fitted_to_what_was_measured():
    link = Link(3e-5, 2e-10)
    found = script("benchmarks", "network", "run.py").fitted(
        {size: link.seconds(size) for size in (8, 4096, 1 << 20, 1 << 24)}
    )
    assert found.latency == pytest.approx(link.latency)
    assert found.seconds_per_byte == pytest.approx(link.seconds_per_byte)


def test_a_network_is_measured_between_two_processes(tmp_path, capsys):
    assert main(["bench", "network", "--json", "--seconds", "0.01"]) == 0
    file = tmp_path / "here.json"
    file.write_text(capsys.readouterr().out)
    link = links.find(str(file)).link
    assert 1e-6 < link.latency < 0.1
    assert link.seconds_per_byte > 0


# ---- the command ----------------------------------------------------------------------------------


def test_the_command_predicts_a_recipe(tmp_path, capsys):
    options = ["--depth", "16", "--batch", "8", "--repeats", "1", "--few", "1", "--error", "0.5"]
    scaling = ["--ranks", "2,1", "--layers-per-rank", "8", "--network", "none"]
    call = ["predict", "level-sets", *scaling, *options, "--json", "--output", str(tmp_path)]
    assert main(call) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["task"] == {"name": "level-sets", "depth": 16, "batch": 8}
    assert [(row["ranks"], row["depth"]) for row in found["strong"]] == [(1, 16), (2, 16)]
    assert [(row["ranks"], row["depth"]) for row in found["weak"]] == [(1, 8), (2, 16)]
    for row in found["strong"]:
        assert row["speedup"] == pytest.approx(row["serial_seconds"] / row["layer"]["seconds"])
        assert set(row["others_seconds"]) == {"data", "1f1b", "zb-h1", "zb-h2"}
        assert row["relative_error"] <= 0.5
    one, two = found["strong"]
    assert one["solver"] == {"kind": "Serial", "memory": "store"}
    assert (one["speedup"], one["relative_error"]) == (1, 0)
    assert two["solver"]["kind"] == "MGRIT"
    assert two["layer"]["messages"] > 0
    assert all(s["data"] * s["layer"] * s["stages"] == 2 for s in found["splits"])
    assert found["recommended"] in found["strong"]
    assert "computing measured" in found["note"]
    for name in ("strong.png", "weak.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_the_command_prints_tables(capsys):
    options = ["--depth", "16", "--batch", "8", "--repeats", "1", "--few", "1", "--error", "0.5"]
    assert main(["predict", "level-sets", "--ranks", "1,2", "--layers-per-rank", "0", *options]) == 0
    printed = capsys.readouterr().out
    assert "Strong scaling: 16 layers" in printed
    assert "Weak scaling" not in printed
    assert "ethernet: 30 µs, 12.5 GB/s (assumed" in printed
    assert "2 ranks as data x layer x pipeline" in printed
    tables = [line for line in printed.splitlines() if line[:6].strip().isdigit()]
    assert len(tables) >= 3
    assert all(len(line) <= 80 for line in tables)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "takes the name of a recipe first"),
        (["level-set"], "did you mean 'level-sets'?"),
        (["level-sets", "--rank", "2"], "did you mean --ranks?"),
        (["level-sets", "--ranks", "two"], "ranks = 'two' is no list of numbers"),
        (["level-sets", "--ranks", "1,2000"], "2000 ranks cannot be predicted: give 1 to 1024"),
        (["level-sets", "--network", "fast"], "There is no network 'fast'"),
        (["level-sets", "--error", "0"], "error = 0.0 is not above 0"),
        (["level-sets", "--few", "0"], "few = 0 is below 1"),
        (["level-sets", "--depth", "0"], "depth = 0 is below 1"),
    ],
)
def test_wrong_input_is_one_sentence(arguments, said, capsys):
    assert main(["predict", *arguments]) == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert errors.count("\n") == 1


def test_a_recipe_that_trains_by_stages_is_refused():
    with pytest.raises(InputError, match="trains stages or subnetworks"):
        from_recipe(recipes.get("cifar10")())
