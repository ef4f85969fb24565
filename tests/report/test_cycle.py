"""The drawing of a cycle shows the schedule that the solver follows, step by step."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

import layerparallel as lp
from layerparallel.report import cycle
from layerparallel.solvers import cost

solvers = st.builds(
    lp.MGRIT,
    levels=st.integers(2, 7),
    coarsening=st.one_of(st.integers(2, 40), st.tuples(st.integers(2, 9), st.integers(2, 4))),
    relaxation=st.one_of(st.integers(0, 2), st.tuples(st.integers(0, 1), st.integers(0, 2))),
    cycle=st.sampled_from("VFW"),
    forward_cycles=st.integers(1, 4),
    adjoint_cycles=st.integers(1, 4),
    start=st.sampled_from(["coarse", "nested", "constant"]),
    first_down=st.booleans(),
    smallest=st.integers(1, 3),
)


def fitting(solver, steps):
    """The solver with as many levels as the depth allows; None where there is no coarse one."""
    levels = len(solver.factors(steps)) + 1
    return replace(solver, levels=levels) if levels > 1 else None


def walks(svg):
    """Level and corners of every line that stands for consecutive steps."""
    found = []
    for path in ElementTree.fromstring(svg).iter("path"):
        kind = path.get("class", "")
        if "walk" in kind:
            level = int(re.findall(r"l(\d)", kind)[0])
            corners = [tuple(map(float, at.split())) for at in path.get("d", "")[1:].split("L")]
            found.append((level, corners))
    return found


@given(solver=solvers, steps=st.integers(4, 3000), adjoint=st.booleans())
def test_every_step_of_the_schedule_is_drawn_once(solver, steps, adjoint):
    solver = fitting(solver, steps)
    if solver is None:
        return
    small, drawn = cycle.reduced(solver, steps, adjoint)
    assert isinstance(small, lp.MGRIT)
    events = cost.schedule(small, drawn, adjoint)
    drawing = cycle.draw(solver, steps, adjoint)
    lines = walks(drawing.svg)
    counts = [0] * len(cost.counted(events))
    for level, corners in lines:
        counts[level] += len(corners) - 1
    assert counts == cost.counted(events)
    assert len(lines) == sum(event.intervals for event in events)
    assert drawing.steps == drawn
    assert drawing.time == sum(event.length for event in events)
    width, height = map(float, re.findall(r'viewBox="0 0 (\d+) (\d+)"', drawing.svg)[0])
    for _, corners in lines:
        downs = [down for _, down in corners]
        across = [at for at, _ in corners]
        assert downs == sorted(downs)
        assert across == sorted(across, reverse=adjoint)
        assert 0 <= min(across) <= max(across) <= width
        assert 0 <= downs[0] <= downs[-1] <= height


@given(solver=solvers, steps=st.integers(4, 3000), adjoint=st.booleans())
def test_a_small_network_of_the_same_kind_stands_for_a_deep_one(solver, steps, adjoint):
    solver = fitting(solver, steps)
    if solver is None:
        return
    small, drawn = cycle.reduced(solver, steps, adjoint)
    assert isinstance(small, lp.MGRIT)
    assert drawn <= max(cycle.MOST_STEPS, 2 ** cycle.MOST_LEVELS[solver.cycle])
    assert len(small.factors(drawn)) == min(solver.levels - 1, cycle.MOST_LEVELS[solver.cycle] - 1)
    assert all(
        few <= many for few, many in zip(small.factors(drawn), solver.factors(steps), strict=False)
    )
    for name in ("cycle", "relaxation", "start", "first_down"):
        assert getattr(small, name) == getattr(solver, name)


def test_a_small_network_is_drawn_as_it_is():
    solver = lp.MGRIT(coarsening=4, forward_cycles=2)
    assert cycle.reduced(solver, 22) == (solver, 22)
    assert cycle.draw(solver, 22).text == "All 22 layers, every step."
    deep = cycle.draw(lp.MGRIT(coarsening=32, forward_cycles=9), 1024).text
    assert deep.startswith("A network of 48 layers stands for 1,024, coarsened by 8 in place of 32")
    assert re.search(r"with \d of 9 cycles", deep)


def labels(svg):
    return [text.text for text in ElementTree.fromstring(svg).iter("text")]


def test_the_labels_say_who_does_what_when():
    svg = cycle.draw(lp.MGRIT(coarsening=4, relaxation=1), 22).svg
    assert labels(svg) == [
        "level 0: 22 layers, every 4th state a C-point (●)",
        "level 1: 5 coarse steps",
        "first guess: coarse solve, 5 steps",
        "F-relaxation from the new C-points: 5 × 4 steps at once",
        "CF-relaxation: 5 × 4 steps at once",
        "right-hand side: 5 × 1 step at once",
        "coarse solve, 3 steps",
        "F-relaxation from the new C-points: 5 × 4 steps at once",
        "2 steps that fill no interval",
    ]
    svg = cycle.draw(lp.MGRIT(levels=3, coarsening=(3, 2), adjoint_cycles=1), 12, adjoint=True).svg
    assert labels(svg)[3:] == [
        "first guess: coarse solve, 2 steps",
        "F-points from the new C-points: 2 × 1 step at once",
        "F-relaxation from the new C-points: 4 × 3 steps at once",
    ]


def test_serial_propagation_is_one_line():
    assert [len(corners) - 1 for _, corners in walks(cycle.draw(lp.Serial(), 500).svg)] == [32]


@pytest.mark.parametrize("adjoint", [False, True])
def test_a_sweep_reaches_from_c_point_to_c_point(adjoint):
    lines = walks(
        cycle.draw(lp.MGRIT(coarsening=4, forward_cycles=1, adjoint_cycles=1), 16, adjoint).svg
    )
    coarse, *sweep = lines
    assert coarse[0] == 1
    ends = sorted({corner[0] for corner in coarse[1]})
    assert len(sweep) == 4
    assert sorted({at for _, line in sweep for at in (line[0][0], line[-1][0])}) == ends
    assert len({line[0][1] for _, line in sweep}) == 1  # all of them at the same time
