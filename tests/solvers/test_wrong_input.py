"""Wrong input of the core: the error names the value, in one sentence."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import layerparallel as lp

M = lp.MGRIT(coarsening=3)


def named(error: pytest.ExceptionInfo[Exception], *values: object) -> None:
    """It is one sentence of some length that names these values, and no traceback of torch."""
    text = str(error.value)
    for value in values:
        assert str(value) in text, text
    assert "\n" not in text
    assert len(text) < 300


# ---- chains --------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [0, -3, 2.5, None])
@pytest.mark.parametrize("layer", [lp.Dense(3), lambda u, t, dt: u], ids=["template", "step function"])
def test_depth(layer: Any, depth: Any):
    with pytest.raises(ValueError, match="depth") as error:
        lp.chain(layer, depth)
    named(error, depth)


def test_no_modules():
    with pytest.raises(ValueError, match="depth 0"):
        lp.chain([])


def test_depth_that_is_not_the_number_of_modules():
    with pytest.raises(ValueError, match="depth") as error:
        lp.chain([lp.Dense(3)] * 4, 5)
    named(error, 5, 4)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["T", "h"])
def test_step_size(name: str, value: float):
    with pytest.raises(ValueError, match="step size"):
        lp.chain(lp.Dense(3), 4, **{name: value})  # type: ignore[arg-type]


def test_both_step_size_and_final_time():
    with pytest.raises(ValueError, match="h = T / depth") as error:
        lp.chain(lp.Dense(3), 4, T=7.5, h=0.25)
    named(error, 7.5, 0.25)
    with pytest.raises(ValueError, match="h is 1"):
        lp.chain(nn.Linear(3, 3), 4, T=2.0, integrator="block")


def test_what_is_no_layer():
    with pytest.raises(TypeError) as error:
        lp.chain(3, 4)  # type: ignore[arg-type]
    named(error, "int")


@pytest.mark.parametrize(
    ("make", "wrong", "near"),
    [
        (lambda: lp.chain(lp.Dense(3), 4, integrator="euller"), "euller", "euler"),  # type: ignore[arg-type]
        (lambda: lp.chain(lp.Dense(3), 4, initial="smoth"), "smoth", "smooth"),  # type: ignore[arg-type]
        (lambda: lp.Dense(3, "smoothrel"), "smoothrel", "smoothrelu"),
        (lambda: lp.Convolution(3, "tan"), "tan", "tanh"),
        (lambda: lp.MGRIT(coarse="mean_residuals"), "mean_residuals", "mean_residual"),  # type: ignore[arg-type]
        (lambda: lp.MGRIT(start="coarsen"), "coarsen", "coarse"),  # type: ignore[arg-type]
        (lambda: lp.MGRIT(cycle="VV"), "VV", "V"),  # type: ignore[arg-type]
        (lambda: lp.MGRIT(memory="stored"), "stored", "store"),  # type: ignore[arg-type]
        (lambda: lp.Serial("recomputed"), "recomputed", "recompute"),  # type: ignore[arg-type]
    ],
)
def test_unknown_names_suggest_the_nearest(make: Callable[[], object], wrong: str, near: str):
    with pytest.raises(ValueError, match="There is no") as error:
        make()
    named(error, repr(wrong), f"did you mean {near!r}")


@pytest.mark.parametrize("make", [lp.MGRIT, lp.Serial, lp.Parareal])
def test_unknown_options(make: Callable[..., object]):
    with pytest.raises(TypeError, match="coarsenig"):
        make(coarsenig=3)
    with pytest.raises(TypeError, match="depht"):
        lp.chain(lp.Dense(3), depht=3)  # type: ignore[call-arg]


def test_parareal_has_two_levels():
    with pytest.raises(TypeError, match="levels"):
        lp.Parareal(levels=3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: lp.Dense(0),
        lambda: lp.Convolution(0),
        lambda: lp.Convolution(2, kernel=4),
        lambda: lp.Convolution(2, kernel=-1),
    ],
)
def test_layers(make: Callable[[], object]):
    with pytest.raises(ValueError, match="use"):
        make()


# ---- solvers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("levels", 1),
        ("levels", 0),
        ("levels", 2.5),
        ("coarsening", 1),
        ("coarsening", 0),
        ("coarsening", -4),
        ("coarsening", 2.5),
        ("coarsening", (4, 1)),
        ("coarsening", ()),
        ("coarsening", [4, 2]),
        ("relaxation", -1),
        ("relaxation", (0, -1)),
        ("relaxation", 0.5),
        ("forward_cycles", 0),
        ("forward_cycles", 1.5),
        ("adjoint_cycles", 0),
        ("adjoint_cycles", -2),
        ("tolerance", 0.0),
        ("tolerance", -1e-3),
        ("tolerance", math.nan),
        ("samples", 0),
        ("smallest", 0),
    ],
)
def test_solver_settings(name: str, value: Any):
    with pytest.raises(ValueError, match=name) as error:
        lp.MGRIT(**{name: value})
    named(error, value, "use")


def body(depth: int = 12) -> lp.Body:
    return lp.chain(lp.Dense(4), depth, T=1.0)


def test_coarsening_beyond_the_depth():
    for solver in (lp.MGRIT(coarsening=13), lp.Split(lp.Serial(), lp.MGRIT(coarsening=13))):
        with pytest.raises(ValueError, match="coarsening 13") as error:
            lp.Network(None, body(), None, solver)
        named(error, 12, "at most 12")
    lp.Network(None, body(), None, lp.MGRIT(coarsening=12))
    with pytest.raises(ValueError, match="at most 3") as error:
        lp.Network(None, body(), None, lp.MGRIT(coarsening=6, smallest=4))
    named(error, 6, 4)


def test_levels_that_cannot_be_built():
    with pytest.raises(ValueError, match="levels=4") as error:
        lp.Network(None, body(), None, lp.MGRIT(levels=4, coarsening=3))
    named(error, 12, "levels=3")
    lp.Network(None, body(), None, lp.MGRIT(levels=3, coarsening=3))
    bounded = lp.MGRIT(levels=9, coarsening=2, smallest=3)  # an upper bound, and says so
    assert bounded.factors(12) == [2, 2]
    lp.Network(None, body(), None, bounded)


def test_a_solver_that_does_not_fit_is_refused_wherever_it_is_given():
    wrong = lp.MGRIT(coarsening=99)
    net = lp.Network(None, body(), None)
    with pytest.raises(ValueError, match="99"):
        net.solver = wrong
    with pytest.raises(ValueError, match="99"):
        net.evaluate_with = wrong
    with pytest.raises(ValueError, match="99"), net.solved_by(wrong):
        pass
    with pytest.raises(ValueError, match="99"):
        lp.Network(None, body(), None, evaluate=wrong)
    assert net.solver == net.evaluate_with == lp.Serial()


def test_what_is_no_solver_or_body():
    net = lp.Network(None, body(), None)
    with pytest.raises(TypeError, match="MGRIT"):
        net.solver = "mgrit"  # type: ignore[assignment]
    with pytest.raises(TypeError, match="chain"):
        lp.Network(None, lp.Dense(4), None)  # type: ignore[arg-type]


def test_split_of_two_memory_policies():
    with pytest.raises(ValueError, match="same"):
        lp.Split(lp.Serial("recompute"), lp.MGRIT())


# ---- states --------------------------------------------------------------------------------------


class Wider(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 5)

    def forward(self, u: Tensor) -> Tensor:
        return self.linear(u)


class Longer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, u: Tensor) -> Tensor:
        return self.linear(u).double()


class Doubled(Longer):
    def forward(self, u: Tensor) -> Any:
        return u, u


class Listed(Longer):
    def forward(self, u: Tensor) -> Any:
        return [u]


SOLVERS: Any = pytest.mark.parametrize("solver", [lp.Serial(), M], ids=["serial", "mgrit"])


@SOLVERS
@pytest.mark.parametrize("integrator", ["euler", "rk4", "block"])
@pytest.mark.parametrize("kind", ["stacked", "tied", "unlike"])
def test_steps_that_change_the_state(kind: str, integrator: Any, solver: Any):
    def network(layer: type[nn.Module]) -> lp.Network:
        chain = (
            lp.chain([layer() for _ in range(12)], integrator=integrator)
            if kind == "unlike"
            else lp.chain(layer(), 12, integrator=integrator, tied=kind == "tied")
        )
        return lp.Network(None, chain, None, solver)

    x = torch.randn(2, 4)
    with pytest.raises(ValueError, match="shape") as error:
        network(Wider)(x)
    named(error, (2, 4), (2, 5))
    with pytest.raises(ValueError, match="dtype") as error:
        network(Longer)(x)
    named(error, torch.float32, torch.float64)
    with pytest.raises(ValueError, match="shape"):
        network(Doubled)(x)
    with pytest.raises(TypeError, match="list"):
        network(Listed)(x)


@SOLVERS
def test_step_functions_that_change_the_state(solver: Any):
    x = torch.randn(2, 4)
    with pytest.raises(ValueError, match="shape"):
        lp.Network(None, lp.chain(lambda u, t, dt: u[:, :3], 12), None, solver)(x)
    with pytest.raises(ValueError, match="dtype"):
        lp.Network(None, lp.chain(lambda u, t, dt: u.double(), 12), None, solver)(x)


@SOLVERS
def test_states_that_do_not_fit_the_layers(solver: Any):
    net = lp.Network(None, body(), None, solver)
    with pytest.raises(ValueError, match="width 4") as error:
        net(torch.randn(2, 5))
    named(error, (2, 5))
    convolution = lp.Network(None, lp.chain(lp.Convolution(2), 12), None, solver)
    for shape in ((2, 3, 5, 5), (2, 5, 5)):
        with pytest.raises(ValueError, match="2 channels") as error:
            convolution(torch.randn(shape))
        named(error, shape)
    pair = lp.Network(None, lp.chain(lp.Hamiltonian(4), 12, integrator="verlet"), None, solver)
    with pytest.raises(ValueError, match="2 tensors"):
        pair(torch.randn(2, 4))


@SOLVERS
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_not_finite_input(value: float, solver: Any):
    net = lp.Network(nn.Linear(3, 4), body(), None, solver)
    x = torch.zeros(2, 3)
    x[1, 2] = value
    with pytest.raises(ValueError, match="enters the chain") as error:
        net(x)
    named(error, "check the input")
    with torch.no_grad(), pytest.raises(ValueError, match="enters the chain"):
        net(x)


@pytest.mark.filterwarnings("ignore:layer-parallel:RuntimeWarning")
@SOLVERS
def test_not_finite_inside_the_chain(solver: Any):
    net = lp.Network(None, lp.chain(lp.Dense(4, "identity"), 12, h=1e30), None, solver)
    with pytest.raises(ValueError, match="inside the chain"):
        net(torch.ones(2, 4))
    broken = lp.Network(None, body(), None, solver)
    with torch.no_grad():
        broken.body.get_parameter("layer.weight")[7, 0, 0] = math.nan
    with pytest.raises(ValueError, match="inside the chain"):
        broken(torch.ones(2, 4))


@SOLVERS
def test_devices(solver: Any):
    net = lp.Network(None, body(), None, solver)
    net.body.to("meta")
    with pytest.raises(ValueError, match="meta") as error:
        net(torch.ones(2, 4))
    named(error, "cpu")
    half = lp.Network(None, body(), None, solver)
    layer = half.body.get_submodule("layer")
    layer.register_parameter("bias", nn.Parameter(layer.get_parameter("bias").to("meta")))
    with pytest.raises(ValueError, match="cpu, meta"):
        half(torch.ones(2, 4))


@SOLVERS
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.bfloat16])
def test_dtypes(dtype: torch.dtype, solver: Any):
    net = lp.Network(None, body(), None, solver)
    with pytest.raises(ValueError, match="convert") as error:
        net(torch.ones(2, 4, dtype=dtype))
    named(error, dtype, torch.float32)


def test_input_per_step_of_another_depth():
    class Sum(nn.Module):
        def forward(self, u: Tensor, x: Tensor) -> Tensor:
            return x

    class Give(nn.Module):
        def forward(self, x: Tensor) -> lp.Driven:
            return lp.Driven(x[0], x)

    net = lp.Network(Give(), lp.chain(Sum(), 12, tied=True), None, M)
    for steps in (1, 9):
        with pytest.raises(ValueError, match="input per step") as error:
            net(torch.randn(steps, 2, 3))
        named(error, steps, 12)


def test_unknown_options_suggest_the_nearest() -> None:
    for make, near in (
        (lambda: lp.MGRIT(coarsenig=3), "coarsening"),  # type: ignore[call-arg]
        (lambda: lp.Serial(memori="store"), "memory"),  # type: ignore[call-arg]
        (lambda: lp.Parareal(foward_cycles=3), "forward_cycles"),
    ):
        with pytest.raises(TypeError, match=f"did you mean '{near}'"):
            make()
