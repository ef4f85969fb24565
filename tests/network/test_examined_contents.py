"""What steps hold and what is done to them between two propagations."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from twins import BODIES, SOLVERS, WIDTH, Block, assert_twins, entering, made, refusal

# ---- tensors that a step holds -------------------------------------------------------------------


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_tensor_that_a_block_holds_gets_its_gradient(body, solver):
    def remembering(block: Any, v: Tensor) -> Tensor:
        return v * block.memory

    net, twin = made(lambda: Block(remembering), body, solver)
    for epoch in range(3):  # another one in every step
        found = []
        for module in (net, twin):
            torch.manual_seed(epoch)
            encoder = nn.Linear(3, WIDTH).double()
            memory = torch.sin(encoder(torch.ones(5, 3, dtype=torch.double)))
            for part in module.modules():
                if isinstance(part, Block):
                    part.memory = memory
            out = module(entering())
            out.square().sum().backward()
            found.append([out, encoder.weight.grad, encoder.bias.grad])
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_an_encoder_that_is_unfrozen_later_gets_its_gradient():
    net, _ = made(lambda: Block(lambda b, v: v + b.memory), "unlike")
    encoder = nn.Linear(3, WIDTH).double().requires_grad_(False)
    for wanted in (False, True):
        encoder.requires_grad_(wanted)
        for part in net.modules():
            if isinstance(part, Block):
                part.memory = encoder(torch.ones(5, 3, dtype=torch.double))
        net(entering()).sum().backward()
        assert (encoder.weight.grad is not None) == wanted


def test_a_tensor_from_elsewhere_is_refused():
    outside = nn.Linear(WIDTH, WIDTH).double()
    net, _ = made(lambda: Block(lambda b, v: outside(v)), "unlike")
    assert "gradient would be lost" in refusal(net, entering())
    outside.requires_grad_(False)
    net(entering()).sum().backward()


# ---- between two steps ---------------------------------------------------------------------------


def lora(block: Any) -> None:
    old = block.fc.requires_grad_(False)
    new = nn.Linear(WIDTH, WIDTH).double()
    nn.init.eye_(new.weight)
    block.fc = nn.Sequential(old, new)


CHANGES: dict[str, Callable[[Any], object]] = {
    "pruned": lambda b: prune.l1_unstructured(b.fc, "weight", 0.5),
    "lora": lora,
    "orthogonal": lambda b: parametrizations.orthogonal(b.fc),
    "weight norm": lambda b: parametrizations.weight_norm(b.fc),
    "old weight norm": lambda b: nn.utils.weight_norm(b.fc),
    "frozen": lambda b: b.fc.bias.requires_grad_(False),
    "replaced": lambda b: setattr(b, "fc", nn.Linear(WIDTH, WIDTH).double()),
    "hooked": lambda b: b.fc.register_forward_hook(lambda module, given, out: 2 * out),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("body", ["unlike", "tied"])
@pytest.mark.parametrize("solver", ["serial", "mgrit recomputed"])
def test_blocks_may_be_changed_between_two_steps(change, body, solver):
    net, twin = made(Block, body, solver)
    assert_twins(net, twin, entering())
    for module in (net, twin):
        torch.manual_seed(5)
        for part in dict.fromkeys(part for part in module.modules() if isinstance(part, Block)):
            CHANGES[change](part)
    assert_twins(net, twin, entering())


def test_a_stack_whose_template_gets_other_parameters_is_refused():
    net, _ = made(Block, "stacked")
    net(entering()).sum().backward()
    net.body.layer.gain = nn.Parameter(torch.ones(WIDTH, dtype=torch.double))
    assert "all parameters are stacked" in refusal(net, entering())


@pytest.mark.parametrize("body", BODIES)
def test_cached_parametrisations_are_not_used(body):
    net, twin = made(lambda: parametrized(), body)
    with parametrize.cached():
        assert_twins(net, twin, entering())


def parametrized() -> nn.Module:
    block = Block()
    parametrizations.weight_norm(block.fc)
    return block


# ---- gradients that there are not ----------------------------------------------------------------


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_what_no_step_uses_has_no_gradient(body, solver):
    def block() -> nn.Module:
        made = Block()
        made.spare = nn.Linear(WIDTH, WIDTH).double()
        return made

    net, twin = made(block, body, solver)
    assert_twins(net, twin, entering())
    spare = [p for name, p in net.named_parameters() if "spare" in name]
    assert spare
    assert all(p.grad is None for p in spare)
