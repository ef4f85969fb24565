"""What docs/numerics.md promises: errors of functions, denormal numbers, what is the same bit by bit."""

import json
import math

import pytest
import torch
from loops import drawn, stepper, walked
from scripts import printed, script
from torch import nn

from layerparallel.chains.native.code import Target
from layerparallel.chains.native.kernel import Kernel
from layerparallel.chains.native.trace import Example, trace

run = script("benchmarks", "numerics", "run.py")

ULPS = {"exp": 1.1, "expm1": 1.6, "sigmoid": 2.5, "tanh": 5.5, "erf": 5.5, "log": 1.0, "log1p": 1.6}
INF, NAN = math.inf, math.nan
EXACT = {
    "exp": {0.0: 1.0, INF: INF, -INF: 0.0, 89.0: INF, -104.0: 0.0},
    "expm1": {0.0: 0.0, INF: INF, -INF: -1.0, 89.0: INF, -104.0: -1.0},
    "sigmoid": {0.0: 0.5, INF: 1.0, -INF: 0.0, 104.0: 1.0, -104.0: 0.0},
    "tanh": {0.0: 0.0, INF: 1.0, -INF: -1.0, 104.0: 1.0, -104.0: -1.0},
    "erf": {0.0: 0.0, INF: 1.0, -INF: -1.0, 104.0: 1.0, -104.0: -1.0},
    "log": {-0.0: -INF, 1.0: 0.0, INF: INF, -1.0: NAN, -INF: NAN},
    "log1p": {0.0: 0.0, -1.0: -INF, INF: INF, -1.1: NAN, -INF: NAN},
}
ODD = ("expm1", "tanh", "erf", "log1p")
"""Functions that keep the sign of 0."""
DENORMAL = 2.0**-130


def bits(x):
    return x.view(torch.int32)


@pytest.mark.parametrize("name", run.FUNCTIONS)
def test_errors_are_within_the_bounds_of_the_page(name):
    row = run.measured(name, run.inputs(4999))
    assert row["ulps"] < ULPS[name]
    assert row["denormal"] <= run.SMALLEST
    assert row["apart"] == 0


@pytest.mark.parametrize("vector", run.VECTORS)
@pytest.mark.parametrize("name", run.FUNCTIONS)
def test_edges(name, vector):
    given = torch.tensor(list(EXACT[name]))
    expected = torch.tensor(list(EXACT[name].values()))
    assert torch.equal(run.native(name, given, vector).nan_to_num(9.0), expected.nan_to_num(9.0))
    some = torch.tensor([0x7FC00000, 0x7F800001, 0x7FC12345, -0x400000, -0x54321], dtype=torch.int32)
    assert run.native(name, some.view(torch.float32), vector).isnan().all()
    limits = torch.tensor([-87.33655, -87.33654, 88.0, 88.4, 88.72283, 88.72284, 2.0**-126, 2.0**127])
    near = (
        (bits(limits)[:, None] + torch.arange(-50, 51, dtype=torch.int32)).flatten().view(torch.float32)
    )
    worst = run.Worst()
    worst.meet(near, run.native(name, near, vector), run.FUNCTIONS[name](run.flushed(near).double()))
    assert worst.ulps < ULPS[name]


@pytest.mark.parametrize("name", ODD)
def test_the_sign_of_0_is_kept(name):
    given = torch.tensor([0.0, -0.0])
    assert torch.equal(bits(run.native(name, given, 64)), bits(given))


def test_values_stay_in_their_ranges():
    for x in run.inputs(99991):
        x = x[~x.isnan()]
        for name in ("tanh", "erf"):
            y = run.native(name, x, 64)
            assert y.abs().max() <= 1
            assert torch.equal(bits(run.native(name, -x, 64)), bits(-y))
        y = run.native("sigmoid", x, 64)
        assert ((y >= 0) & (y <= 1)).all()


@pytest.mark.parametrize("name", run.FUNCTIONS)
def test_denormal_numbers_are_0_inside_and_only_there(name):
    given = torch.tensor([DENORMAL, -DENORMAL])
    found = run.native(name, given, 64)
    expected = run.native(name, 0 * given, 64)
    assert torch.equal(run.flushed(found), expected)
    assert (given * 2).count_nonzero() == 2, "PyTorch still computes denormal numbers"


# ---- kernels --------------------------------------------------------------------------------------


def made(batch, goal, dtype=torch.float32, steps=7):
    """A kernel of a layer with parameters of its own in every step, and all it is called with."""
    module = nn.Sequential(nn.Linear(5, 11), nn.GELU(), nn.Linear(11, 5))
    names = [name for name, _ in module.named_parameters()]
    torch.manual_seed(0)
    how = {"steps": steps, "stacked": True, "inputs": 0, "parts": 1, "dtype": dtype}
    u, own, shared = drawn(module, (5,), batch=batch, **how)
    program = trace(
        stepper(module, names, True, 1),
        Example((u[0][:1],), tuple(p[0] for p in own), tuple(shared), False),
    )
    return Kernel.of(program, goal, True), u, own, [torch.cos(u[0])]


def results(kernel, u, own, adjoint, size=0.3):
    return walked(kernel, u, own, [], adjoint, own[0].shape[0], size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["32", "64"])
def test_a_samples_numbers_do_not_depend_on_its_place_or_the_batch(dtype):
    kernel, u, own, adjoint = made(45, Target(32, 2), dtype)
    state, back, *gradients = results(kernel, u, own, adjoint)
    again = results(kernel, u, own, adjoint)
    assert all(torch.equal(a, b) for a, b in zip((state, back, *gradients), again, strict=True))
    for first, last in ((0, 1), (0, 16), (3, 20), (7, 45), (44, 45), (1, 34)):
        part = slice(first, last)
        few = results(kernel, [u[0][part].clone()], own, [adjoint[0][part].clone()])
        assert torch.equal(few[0], state[part])
        assert torch.equal(few[1], back[part])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["32", "64"])
def test_a_samples_numbers_do_not_depend_on_the_width_of_vectors(dtype):
    found = []
    for vector, tile in ((16, 1), (32, 2), (64, 2)):
        found.append(results(*made(45, Target(vector, tile), dtype)))
    for other in found[1:]:
        assert torch.equal(other[0], found[0][0])
        assert torch.equal(other[1], found[0][1])
        for a, b in zip(other[2:], found[0][2:], strict=True):
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["forward", "backward"])
def test_denormal_numbers_are_flushed_by_a_kernel_and_by_nothing_after_it(name):
    kernel, u, own, _ = made(3, Target(16, 1), steps=1)
    tiny = torch.full_like(u[0], DENORMAL)[None]
    end, tape = torch.empty_like(tiny), torch.zeros(kernel.tape_shape(1, 3))
    gradients = [torch.zeros_like(a) for a in own]
    kernel(
        name,
        length=1,
        walked=1,
        h=0.0,
        start=[tiny],
        end=[end],
        own=own,
        shared=[],
        times=torch.zeros(1, 1),
        tape=tape,
        own_gradient=gradients if name == "backward" else (),
        collect=name == "backward",
    )
    assert not end.count_nonzero()
    assert (tiny / 2).count_nonzero() == tiny.numel()


# ---- the benchmark --------------------------------------------------------------------------------


def test_the_benchmark_prints_every_function():
    rows = json.loads(printed(run.main, ["--stride", "9999991", "--json"]))
    assert [row["case"] for row in rows] == list(run.FUNCTIONS)
    table = printed(run.main, ["--stride", "9999991", "--function", "tanh"])
    assert table.split("\n")[1].startswith("tanh")


def test_an_error_is_in_units_of_the_exact_value():
    exact = torch.tensor([1.0, 1.0, 0.75, 2.0**128, math.nan, math.nan, 1.0], dtype=torch.float64)
    found = torch.tensor([1 + 2**-22, 1 - 2**-24, 0.75, math.inf, math.nan, 1.0, math.nan])
    assert run.units(found, exact).tolist() == [2.0, 0.5, 0.0, 0.0, 0.0, math.inf, math.inf]
