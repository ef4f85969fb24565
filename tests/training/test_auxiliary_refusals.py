"""What cannot be trained with auxiliary variables is refused, in one sentence."""

import copy
import math
from typing import Any

import pytest
import torch
from auxiliary_problem import CUTS, INDEX, batch, images, made, network, staged, step, train
from torch import Tensor, nn

from layerparallel.data.batches import Batch
from layerparallel.errors import InputError, UnknownNameError, UnknownOptionError
from layerparallel.staged import Staged
from layerparallel.training.auxiliary import Auxiliary, Store, Whole, parse

# ---- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "penalti"}, "did you mean 'penalty'"),
        ({"beta": 0.0}, "beta = 0.0 is no positive number"),
        ({"beta": math.inf}, "beta = inf is no positive number"),
        ({"beta": math.nan}, "beta = nan is no positive number"),
        ({"budget": math.nan}, "budget = nan is no positive number"),
        ({"multiplier_rate": math.nan}, "multiplier_rate = nan is no positive number"),
        ({"beta_growth": 0.5}, "beta_growth = 0.5 is no factor of at least 1"),
        ({"beta_growth": math.inf}, "beta_growth = inf is no factor of at least 1"),
        ({"beta_growth": math.nan}, "beta_growth = nan is no factor of at least 1"),
        ({"state_rate": -1.0}, "state_rate = -1.0 is no positive number"),
        ({"state_rate": math.nan}, "state_rate = nan is no positive number"),
        ({"serial_start": -1}, "serial_start = -1 is no whole number of at least 0"),
        ({"serial_start": math.nan}, "serial_start = nan is no whole number"),
        ({"parallel": 0}, "parallel = 0 is no whole number of at least 1"),
        ({"serial": 1.5}, "serial = 1.5 is no whole number of at least 0"),
        ({"stages": (2, 0)}, r"stages = \(2, 0\) is no whole number of at least 1, or tuple"),
        ({"stages": 2.5}, "stages = 2.5 is no whole number"),
        ({"schedule": "alternating", "parallel": 3}, "serial = 0 epochs cannot alternate"),
        ({"regenerate": True, "method": "augmented"}, "regenerate keeps nothing per sample"),
        ({"state_decay": 1.5}, "state_decay = 1.5 is no factor of at most 1"),
        ({"multiplier_decay": math.nan}, "multiplier_decay = nan is no factor of at most 1"),
        ({"filter": "pool:two"}, "'two' in the filter 'pool:two'"),
        ({"filter": "pool:²"}, "'²' in the filter 'pool:²'"),
        ({"filter": "bf16+int8"}, "kept in bf16 cannot be in int8, too"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(InputError, match=message) as caught:
        Auxiliary(**settings)
    assert "\n" not in str(caught.value)


def test_unknown_options():
    with pytest.raises(UnknownOptionError, match="did you mean 'beta_growth'"):
        Auxiliary(beta_grow=2.0)  # type: ignore[call-arg]
    with pytest.raises(UnknownNameError):
        Auxiliary(scale="average")  # type: ignore[arg-type]


def test_a_rate_that_diverges_and_not_one_below():
    x, _ = images()
    with pytest.raises(InputError, match=r"times 2·beta·4 is 2, .* give less than 0.025"):
        made(staged(), x, filter="pool:2", scale="sum", state_rate=0.025)
    method = made(staged(), x, filter="pool:2", scale="sum", state_rate=0.0249)
    assert method.settings.state_rate_in(0, 1.0, 4.0) == 0.0249


@pytest.mark.parametrize("beta", [1.0, 1e200])
def test_a_beta_that_outgrows_all_numbers(beta):
    settings = Auxiliary(beta=beta, beta_growth=1e100, serial_start=0)
    with pytest.raises(InputError, match=r"grown 4 times by beta_growth = 1e\+100 is too large"):
        settings.beta_in(4)


# ---- networks and training sets -----------------------------------------------------------------


@pytest.mark.parametrize("stages", [2, (2, 3), (2,)])
def test_settings_of_other_stages(stages):
    with pytest.raises(InputError, match=r"and the network is of 3, cut at \(2, 4\)"):
        made(staged(), images()[0], stages=stages)
    assert made(staged(), images()[0], stages=CUTS).network.count == 3


class Pair(nn.Linear):
    def forward(self, input: Tensor) -> Any:
        return super().forward(input), input


class Join(nn.Linear):
    def forward(self, input: Any) -> Tensor:
        return super().forward(input[0])


class Turned(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).mT


class Counted(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).round().long()


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (Pair, "Stage 0 ends with a tuple"),
        (Turned, r"Stage 0 ends with a state of shape \(4, 2\) for 2 samples"),
        (Counted, "Stage 0 ends with a state of torch.int64, which has no gradient"),
    ],
)
def test_a_state_that_no_tensor_can_stand_for(first, message):
    with pytest.raises(InputError, match=message):
        made(Staged(nn.Sequential(first(3, 4), Join(4, 2)), (1,)), torch.randn(6, 3))


def test_states_of_different_precision():
    class Halved(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input).bfloat16()

    class Back(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input.float())

    net = Staged(nn.Sequential(nn.Linear(3, 3), Halved(3, 3), Back(3, 2)), (1, 2))
    with pytest.raises(InputError, match=r"in torch.float32 and torch.bfloat16: give all one dtype"):
        made(net, torch.randn(6, 3))


def test_states_that_cannot_move_with_their_images():
    x, _ = images()
    flat = Staged([*list(network())[:5], nn.Flatten(), nn.Linear(144, 3).double()], (2, 6))
    with pytest.raises(InputError, match=r"States of shape \(144,\) at interface 2 cannot be cropped"):
        made(flat, x, augment="both")


def test_interfaces_that_do_not_fit_the_filter():
    x, _ = images()
    with pytest.raises(InputError, match=r"of 8×6 pixels cannot be pooled by 3: give a factor out of 2"):
        made(staged(), x, filter="pool:3")
    with pytest.raises(InputError, match="has at most rank 3, not 4: give at most that"):
        made(staged(), x, filter="lowrank:4")


def test_no_samples():
    with pytest.raises(InputError, match="count = 0 samples are too few"):
        made(staged(), images()[0][:0])
    with pytest.raises(InputError, match="batch = 0 samples are too few"):
        made(staged(), images()[0], batch=0)


def test_a_first_stage_may_have_nothing_to_train():
    x, y = images()
    net = staged()
    frozen = [p.requires_grad_(False).clone() for p in net.parameters_of(0)]
    train(made(net, x, method="augmented"), x, y, range(2))
    assert all(torch.equal(p, q) for p, q in zip(net.parameters_of(0), frozen, strict=True))


# ---- memory -------------------------------------------------------------------------------------


def test_memory_beyond_the_budget_and_the_filter_that_fits():
    """An interface of 1000 samples of 16 numbers of 4 bytes, with multipliers: 128 kB."""
    shapes, filters = {1: (1, 4, 4)}, {1: Whole()}
    with pytest.raises(InputError) as caught:
        Store(1000, shapes, filters, budget=20_000, multipliers=True)
    assert str(caught.value) == (
        "The auxiliary variables need 0.000128 GB of memory and the budget is 2e-05 GB: give a folder "
        "to keep them in, or the filter pool:2+bf16, with which they need 1.6e-05 GB."
    )
    fits = parse("pool:2+bf16")
    assert Store(1000, shapes, {1: fits}, budget=20_000, multipliers=True).nbytes == 16_000
    with pytest.raises(InputError, match=r"GB: give a folder to keep them in, or a larger budget\.$"):
        Store(1000, shapes, filters, budget=1)


def test_a_folder_that_is_none(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be kept in the folder .*/file \(.* another folder"):
        Store(10, {1: (4,)}, {1: Whole()}, budget=1, folder=tmp_path / "file")


def test_a_disk_without_room(tmp_path):
    with pytest.raises(InputError, match=r"^The 4e\+03 GB .* GB are free there\): give another folder"):
        Store(10**9, {1: (1000,)}, {1: Whole()}, budget=1, folder=tmp_path)


def test_a_budget_that_is_not_there():
    with pytest.raises(InputError, match=r"cannot be kept in the memory of cpu .*: give a folder"):
        Store(10**13, {1: (1000,)}, {1: Whole()}, budget=10**18)


# ---- mini batches -------------------------------------------------------------------------------


@pytest.mark.parametrize("serial_start", [0, 1])
def test_a_step_asks_which_samples_these_are_before_anything_is_trained(serial_start):
    x, y = images()
    with pytest.raises(InputError, match="without the places of its samples"):
        made(staged(), x, serial_start=serial_start).step(x[INDEX], y[INDEX])


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ([3, 11, 20], "from 3 to 20 and the training set 20 samples: give places from 0 to 19"),
        ([3, -1, 2], "places from -1 to 3 and"),
        ([3, 1, 3], "has a sample twice, .*: give every place once"),
        ([3, 1], r"of 3 samples has places of shape \(2,\) in torch.int64: give one whole number"),
        ([3.0, 1.0, 2.0], "in torch.float32: give one whole number for each"),
    ],
)
def test_places_that_a_sampler_must_not_give(places, message):
    x, y = images()
    method = made(staged(), x)
    with pytest.raises(InputError, match=message):
        method.step(x[:3], y[:3], batch=Batch(x[:3], y[:3], torch.tensor(places)))


def test_inputs_of_another_shape():
    x, y = images()
    method = made(staged(), x)
    wide = torch.zeros(20, 2, 8, 8, dtype=torch.float64)
    with pytest.raises(InputError, match=r"of shape \(2, 8, 8\) and the training set of \(2, 8, 6\)"):
        step(method, batch(wide, y, INDEX))


# ---- saved states -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cuts", "settings", "message"),
    [
        (
            (3, 4),
            {},
            r"of stages from pieces \[0, 2, 4\] and this training of \[0, 3, 4\]: give",
        ),
        ((2,), {}, r"of stages from pieces \[0, 2, 4\] and this training of \[0, 2\]"),
        (CUTS, {"method": "penalty"}, "of method augmented and this training of penalty"),
        (CUTS, {"filter": "pool:2:bilinear"}, "of filter pool:2 and this training of pool:2:bilinear"),
    ],
)
def test_a_state_that_was_made_in_another_way(cuts, settings, message):
    x, y = images()
    chosen: dict[str, Any] = {"method": "augmented", "filter": "pool:2"}
    one = made(staged(), x, **chosen)
    train(one, x, y, range(1))
    two = made(staged(cuts=cuts), x, **chosen | settings)
    before = copy.deepcopy(two.network.state_dict())
    with pytest.raises(InputError, match=message):
        two.load_state_dict(one.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in two.network.state_dict().items())


def test_a_training_set_that_has_changed_its_size():
    x, y = images()
    one = made(staged(), x)
    train(one, x, y, range(1))
    with pytest.raises(InputError, match="of 20 training samples and there are 12: give the same"):
        made(staged(), x[:12]).load_state_dict(one.state_dict())
