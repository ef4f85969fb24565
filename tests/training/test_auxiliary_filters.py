"""Filters against their own linear algebra, and the store of what they keep."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from layerparallel.errors import InputError, UnknownNameError
from layerparallel.training.auxiliary import LowRank, Pool, Rounded, Store, Whole, parse
from layerparallel.training.auxiliary.filters import Filter

STATE = (3, 8, 12)
LINEAR = ["none", "pool:2", "pool:4", "pool:2:bilinear", "pool:4:bilinear"]
ALL = [*LINEAR, "lowrank:1", "lowrank:2", "lowrank:3"]


def filter_of(text: str) -> Filter:
    return parse(text).fitted(STATE)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kept(filter: Filter, seed: int = 0) -> Tensor:
    return random(2, *filter.shape(STATE), seed=seed)


def matrix(work: Any, shape: tuple[int, ...]) -> Tensor:
    """Of a linear map of one sample, from all unit vectors."""
    units = torch.eye(math.prod(shape), dtype=torch.float64).view(-1, 1, *shape)
    return torch.stack([work(unit).flatten() for unit in units], dim=1)


@pytest.mark.parametrize("text", ALL)
def test_push_and_transpose_are_the_derivative_of_up_and_its_transpose(text):
    filter = filter_of(text)
    at, z, g = kept(filter), kept(filter, 1), random(2, *STATE, seed=2)
    up, pull, *_ = torch.func.vjp(filter.up, at)
    pushed = torch.func.jvp(filter.up, (at,), (z,))[1]
    assert up.shape == (2, *STATE)
    torch.testing.assert_close(filter.push(z, at), pushed, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(filter.transpose(g, at), pull(g)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("text", ALL)
def test_solve_makes_the_orthogonal_projection_onto_what_the_filter_can_change(text):
    filter = filter_of(text)
    at = kept(filter)[:1]
    jacobian = matrix(lambda z: filter.push(z, at), filter.shape(STATE))
    project = matrix(lambda g: filter.push(filter.solve(filter.transpose(g, at), at), at), STATE)
    wanted = jacobian @ torch.linalg.pinv(jacobian)
    torch.testing.assert_close(project, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("text", ALL)
def test_norm_is_the_largest_eigenvalue_by_which_the_kept_state_descends(text):
    filter = filter_of(text)
    at = kept(filter)[:1]

    def descended(z: Tensor) -> Tensor:
        return filter.direction(filter.transpose(filter.push(z, at), at), at)

    largest = torch.linalg.eigvals(matrix(descended, filter.shape(STATE))).abs().max()
    assert filter.norm(STATE) == pytest.approx(float(largest), rel=1e-9)


@pytest.mark.parametrize("text", LINEAR)
def test_a_linear_filter_keeps_the_nearest_state(text):
    filter = filter_of(text)
    z, x = kept(filter), random(2, *STATE, seed=3)
    torch.testing.assert_close(filter.down(filter.up(z)), z, rtol=1e-12, atol=1e-12)
    rest = x - filter.up(filter.down(x))
    assert float(filter.transpose(rest).abs().max()) < 1e-12  # at right angles to all that can be kept
    torch.testing.assert_close(filter.solve(filter.transpose(x)), filter.down(x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("factor", [2, 4])
def test_pooling_is_what_it_says(factor):
    z = random(2, 3, 8 // factor, 12 // factor)
    ones = torch.ones(factor, factor, dtype=torch.float64)
    kronecker = torch.stack([torch.kron(each, ones) for each in z.flatten(0, 1)]).view(2, *STATE)
    assert torch.equal(Pool(factor).up(z), kronecker)
    bilinear = F.interpolate(z, scale_factor=factor, mode="bilinear", align_corners=False)
    torch.testing.assert_close(Pool(factor, "bilinear").up(z), bilinear, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("state", [STATE, (8, 2, 3), (6, 5)])
def test_low_rank_keeps_the_largest_singular_values(state):
    x = random(4, *state)
    filter = LowRank(2).fitted(state)
    u, s, vh = torch.linalg.svd(x.flatten(2), full_matrices=False)
    nearest = u[..., :2] @ torch.diag_embed(s[..., :2]) @ vh[..., :2, :]
    z = filter.down(x)
    torch.testing.assert_close(filter.up(z).flatten(2), nearest, rtol=1e-10, atol=1e-10)
    left, right = z.split([state[0], math.prod(state[1:])], dim=-1)
    torch.testing.assert_close(left.norm(dim=-1), right.norm(dim=-1))


def test_low_rank_grows_out_of_a_state_that_has_less():
    filter = LowRank(2).fitted(STATE)
    wanted, at = random(1, *STATE), filter.down(torch.zeros(1, *STATE, dtype=torch.float64))
    for _ in range(200):
        gradient = filter.transpose(filter.up(at) - wanted, at)
        at = at - 0.25 * filter.direction(gradient, at)
    best = filter.up(filter.down(wanted))
    assert float((filter.up(at) - wanted).norm()) < 1.2 * float((best - wanted).norm())


@pytest.mark.parametrize("text", ["none", "pool:2", "lowrank:2"])
@pytest.mark.parametrize(("rounding", "bound"), [("bf16", 2**-8), ("int8", 1 / 254)])
def test_rounded_states_are_near(text, rounding, bound):
    filter = parse(f"{text}+{rounding}").fitted(STATE)
    z = kept(filter) * torch.tensor([1e-3, 50.0], dtype=torch.float64).view(
        2, *[1] * (kept(filter).ndim - 1)
    )
    rows = filter.store(z)
    assert tuple((tuple(r.shape[1:]), r.dtype) for r in rows) == filter.forms(STATE, z.dtype)
    size = z.abs() if rounding == "bf16" else z.abs().flatten(1).amax(1).view(2, *[1] * (z.ndim - 1))
    error = (filter.load(rows, z.dtype) - z).abs()
    assert bool((error <= 1.001 * bound * size).all())
    assert float(error.max()) > 0
    nothing = torch.zeros_like(z)
    assert torch.equal(filter.load(filter.store(nothing), z.dtype), nothing)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("none", 3 * 8 * 12 * 4),
        ("bf16", 3 * 8 * 12 * 2),
        ("pool:2", 3 * 4 * 6 * 4),
        ("pool:2+int8", 3 * 4 * 6 + 4),
        ("lowrank:2+bf16", 2 * (3 + 96) * 2),
    ],
)
def test_bytes(text, size):
    assert parse(text).bytes(STATE) == size


def test_parse():
    assert parse("none") == Whole()
    assert parse("pool") == parse("pool:2") == Pool(2)
    assert parse("pool:4:bilinear+int8") == Rounded(Pool(4, "bilinear"), "int8")
    assert parse("lowrank:3+bf16") == Rounded(LowRank(3), "bf16")
    assert parse("int8") == parse("none+int8") == Rounded(Whole(), "int8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pol:2", "did you mean 'pool'"),
        ("pool:2:bilinaer", "did you mean 'bilinear'"),
        ("pool:2+bf17", "did you mean 'bf16'"),
        ("pool:x", "'x' in the filter 'pool:x' is no whole number"),
        ("pool:0", "pooled by 0: give a factor of at least 1"),
        ("lowrank", "'lowrank' cannot be read"),
        ("none:3", "'none:3' cannot be read"),
        ("lowrank:0", "rank 0: give at least 1"),
    ],
)
def test_a_wrong_text_is_refused(text, message):
    with pytest.raises(InputError, match=message.replace("+", r"\+")):
        parse(text)


def test_unknown_names_keep_their_kind():
    with pytest.raises(UnknownNameError):
        Rounded(Whole(), "int7")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError):
        Pool(2, "cubic")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "state", "message"),
    [
        ("pool:3", (4, 8, 12), "8×12 pixels cannot be pooled by 3: give a factor out of 2, 4"),
        ("pool:2", (4, 7, 5), "7×5 pixels cannot be pooled by 2: give the filter none"),
        ("pool:2+int8", (16,), r"state of shape \(16,\) cannot be pooled by 2"),
        ("lowrank:4", (3, 8, 8), r"has at most rank 3, not 4"),
        ("lowrank:1", (9,), "is no matrix"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(text, state, message):
    with pytest.raises(InputError, match=message):
        parse(text).fitted(state)
    with pytest.raises(InputError, match=message):
        parse(text).bytes(state)


# ---- the store ----------------------------------------------------------------------------------


def store(text: str = "none", budget: int = 1 << 30, **options: Any) -> Store:
    shapes = {1: STATE, 2: (4, 4, 4)}
    filters = {k: parse(text) for k in shapes}
    return Store(10, shapes, filters, budget, **{"dtype": torch.float64, **options})


@pytest.mark.parametrize("multipliers", [False, True])
@pytest.mark.parametrize("text", ["none", "pool:2", "pool:2+int8", "lowrank:2+bf16"])
def test_rows_come_back_as_they_were_put(text, multipliers):
    made = store(text, multipliers=multipliers)
    filter, index = made.filters[1], torch.tensor([7, 2, 5])
    z = random(3, *filter.shape(STATE))
    made.put(1, index, z, 2 * z if multipliers else None)
    state, multiplier = made.take(1, torch.tensor([5, 0, 7]))
    rounded = filter.load(filter.store(z), z.dtype)
    assert torch.equal(state[[0, 2]], rounded[[2, 0]])
    assert not state[1].any()
    if multipliers:
        assert multiplier is not None
        assert torch.equal(multiplier[[0, 2]], filter.load(filter.store(2 * z), z.dtype)[[2, 0]])
        made.put(1, index, 3 * z)
        _, after = made.take(1, index)
        assert after is not None
        assert after.any()  # a state put alone leaves the multiplier
    else:
        assert multiplier is None
    state[:] = 1.0  # a copy
    assert not made.take(1, torch.tensor([0]))[0].any()
    assert not made.take(2, torch.arange(10))[0].any()


def test_what_exceeds_the_budget_is_kept_in_files(tmp_path: Path):
    folder = tmp_path / "auxiliary"
    whole = store(multipliers=True, folder=folder)
    assert not folder.exists()
    made = store(multipliers=True, folder=folder, budget=whole.nbytes - 1)
    assert sum(path.stat().st_size for path in folder.iterdir()) == made.nbytes == whole.nbytes
    assert made.nbytes == 10 * 2 * 8 * (math.prod(STATE) + 64)
    z = random(10, *STATE)
    made.put(1, torch.arange(10), z, -z)
    state, multiplier = made.take(1, torch.arange(10))
    assert torch.equal(state, z)
    assert multiplier is not None
    assert torch.equal(multiplier, -z)
    other = store(multipliers=True, folder=folder, budget=0)  # a new run finds nothing of the old one
    assert not other.take(1, torch.arange(10))[0].any()


def test_the_budget_names_what_is_needed_and_a_filter_that_fits():
    with pytest.raises(
        InputError, match=r"need 2.82e-05 GB .* budget is 1e-05 GB.*bf16, with which"
    ) as told:
        store(budget=10_000)
    text = str(told.value).partition("the filter ")[2].partition(",")[0]
    assert store(text, budget=10_000).nbytes <= 10_000
    with pytest.raises(InputError, match="or a larger budget"):
        store(budget=10)


def test_a_saved_store_is_taken_back_by_one_like_it():
    made = store("pool:2+int8", multipliers=True)
    z = random(10, *made.filters[1].shape(STATE))
    made.put(1, torch.arange(10), z, z.square())
    saved = made.state_dict()
    other = store("pool:2+int8", multipliers=True)
    other.load_state_dict(saved)
    for one, two in zip(made.take(1, torch.arange(10)), other.take(1, torch.arange(10)), strict=True):
        assert one is not None
        assert two is not None
        assert torch.equal(one, two)
        assert one.any()
    with pytest.raises(InputError, match="of 10 training samples and there are 9"):
        Store(9, {}, {}, 1).load_state_dict(saved)
    for different in (store("pool:2"), store("pool:2+int8"), store("pool:4+int8", multipliers=True)):
        with pytest.raises(InputError, match="none of interface 1 like those wanted"):
            different.load_state_dict(saved)
