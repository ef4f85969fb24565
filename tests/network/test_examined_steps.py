"""What a step does besides returning a value: right as in plain PyTorch, or refused in one sentence."""

import copy
import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from twins import BODIES, SOLVERS, WIDTH, Block, assert_twins, entering, made, refusal

import layerparallel as lp

# ---- random numbers ------------------------------------------------------------------------------


def drop_path(block: nn.Module, v: Tensor) -> Tensor:
    return v * v.new_empty(len(v), 1).bernoulli_(0.98) / 0.98


def noise(block: nn.Module, v: Tensor) -> Tensor:
    return v + 1e-6 * torch.randn_like(v)


def skipping(block: nn.Module, v: Tensor) -> Tensor:
    return v if random.random() < 0.999 else 0 * v


@pytest.mark.parametrize("more", [drop_path, noise, skipping, lambda b, v: torch.dropout(v, 0.01, True)])
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("solver", ["serial", "mgrit"])
def test_random_numbers_are_refused_however_rare_and_small(more, body, solver):
    for seed in range(5):
        net, _ = made(lambda: Block(more), body, solver)
        torch.manual_seed(seed)
        assert "draws random numbers" in refusal(net, entering())


def test_a_generator_of_its_own_is_refused_by_its_values():
    generator = torch.Generator()
    net, _ = made(
        lambda: Block(lambda b, v: v + torch.randn(v.shape, generator=generator, dtype=v.dtype)), "tied"
    )
    assert "draws random numbers or remembers" in refusal(net, entering())


@pytest.mark.parametrize("body", BODIES)
def test_dropout_that_is_switched_on_later_gets_masks_of_its_own(body):
    """The mask of the forward pass is that of its recomputation."""

    def dropped(block: Any, v: Tensor) -> Tensor:
        return block.drop(v)

    def block() -> nn.Module:
        made = Block(dropped)
        made.drop = nn.Dropout(0.0)
        return made

    net, _ = made(block, body)
    found = []
    net(entering()).sum().backward()
    for part in net.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.5
    for solver in SOLVERS.values():
        net.solver = solver
        net.zero_grad()
        torch.manual_seed(7)
        net(entering()).square().sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    assert all(torch.allclose(each, found[0], rtol=1e-10, atol=1e-12) for each in found)
    net.eval()
    before = net(entering())
    assert torch.equal(before, net(entering()))


def test_noise_that_is_switched_on_later_is_refused():
    net, _ = made(
        lambda: Block(lambda b, v: v + torch.randn_like(v) if getattr(b, "on", False) else v), "tied"
    )
    net(entering()).sum().backward()
    net.body.layer.on = True
    assert "draws random numbers" in refusal(net, entering())


def test_dropout_in_place_whose_value_is_not_used_has_an_effect():
    def dropped(block: nn.Module, v: Tensor) -> Tensor:
        v = v.clone()
        nn.functional.dropout(v, 1.0, inplace=True)
        return v

    net, _ = made(lambda: Block(dropped), "tied")
    assert torch.equal(net(entering()), entering())


# ---- in place, buffers, what is left behind -------------------------------------------------------


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_step_that_changes_the_state_in_place_gets_a_copy(body, solver):
    class PreActivated(Block):
        def forward(self, u: Tensor) -> Tensor:
            return u + 0.1 * self.fc(nn.functional.relu(u, inplace=True))

    net, twin = made(PreActivated, body, solver)
    given = entering()
    net(given)
    assert torch.equal(given, entering())
    opening = nn.Linear(WIDTH, WIDTH).double()  # plain PyTorch refuses to change a leaf
    net = lp.Network(opening, net.body, None, SOLVERS[solver])
    twin = nn.Sequential(copy.deepcopy(opening), *twin)
    a, b = net(entering()), twin(entering())
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    a.square().sum().backward()
    b.square().sum().backward()
    torch.testing.assert_close(net.opening.weight.grad, twin[0].weight.grad, rtol=1e-10, atol=1e-12)


def counted(block: Any, v: Tensor) -> Tensor:
    block.scale += 1
    return v


def bound_anew(block: Any, v: Tensor) -> Tensor:
    block.scale = 0.9 * block.scale + v.detach().mean()
    return v


def written(block: Any, v: Tensor) -> Tensor:
    block.fc.weight.data.mul_(0.99)
    return v


@pytest.mark.parametrize(
    ("more", "what"), [(counted, "scale"), (bound_anew, "scale"), (written, "a parameter")]
)
@pytest.mark.parametrize("body", BODIES)
def test_what_a_step_changes_is_refused_and_left_as_it_was(more, what, body):
    def block() -> nn.Module:
        made = Block(more)
        made.register_buffer("scale", torch.ones(()))
        return made

    net, _ = made(block, body)
    before = copy.deepcopy(net.state_dict())
    assert f"changes {'its buffer ' if what == 'scale' else ''}{what}" in refusal(net, entering())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("kept", [lambda v: v.mean(), lambda v: [v], lambda v: {"a": v}])
def test_a_loss_left_behind_is_refused(kept):
    def left(block: Any, v: Tensor) -> Tensor:
        block.auxiliary = kept(v)
        return v

    net, _ = made(lambda: Block(left), "unlike")
    assert "leaves a tensor with a graph in its attribute auxiliary" in refusal(net, entering())


def test_a_detached_value_left_behind_is_none_of_our_business():
    def left(block: Any, v: Tensor) -> Tensor:
        block.seen = v.detach().mean()
        return v

    net, twin = made(lambda: Block(left), "unlike")
    assert_twins(net, twin, entering())


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("body", BODIES)
def test_a_step_that_checkpoints_itself_is_refused(reentrant, body):
    class Checkpointed(Block):
        def forward(self, u: Tensor) -> Tensor:
            return checkpoint(super().forward, u, use_reentrant=reentrant)

    net, _ = made(Checkpointed, body)
    assert "memory='recompute'" in refusal(net, entering())


def test_checkpointing_that_is_switched_on_later_is_refused():
    class Switched(Block):
        on = False

        def forward(self, u: Tensor) -> Tensor:
            return checkpoint(super().forward, u, use_reentrant=False) if self.on else super().forward(u)

    net, twin = made(Switched, "unlike")
    assert_twins(net, twin, entering())
    Switched.on = True
    assert "memory='recompute'" in refusal(net, entering())


class MaxNorm(Block):
    """Keeps the norm of its weight in bounds."""

    on = True

    def forward(self, u: Tensor) -> Tensor:
        if self.on:
            with torch.no_grad():
                self.fc.weight.div_((self.fc.weight.norm() / 3).clamp(min=1))
        return super().forward(u)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_writing_what_is_there_already_is_no_change_of_a_parameter(body, solver):
    net, twin = made(MaxNorm, body, solver)
    for part in twin.modules():
        vars(part)["on"] = body != "tied"  # of which plain PyTorch has no gradient
    for _ in range(2):
        assert_twins(net, twin, entering())
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(1000)
    before = copy.deepcopy(net.state_dict())
    assert "changes a parameter" in refusal(net, entering())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_writing_to_parameters_that_begins_later_is_refused(body, solver):
    net, twin = made(MaxNorm, body, solver)
    for part in [*net.modules(), *twin.modules()]:
        vars(part)["on"] = False
    assert_twins(net, twin, entering())
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(1000)
    for part in net.modules():
        vars(part)["on"] = True
    assert "parameter" in refusal(net, entering())
