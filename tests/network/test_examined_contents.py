"""What steps hold and what is done to them between two propagations."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from twins import BODIES, DEPTH, SOLVERS, WIDTH, Block, assert_twins, entering, made, refusal

import layerparallel as lp

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


# ---- what was found by trying to break it ----------------------------------------------------------


def test_a_module_that_is_put_in_place_of_a_step_is_the_step():
    net, _ = made(Block, "unlike")
    net(entering())
    net.body.layers[2] = nn.Identity()
    expected = entering()
    for k, layer in enumerate(net.body.layers):
        expected = expected if k == 2 else layer(expected)
    torch.testing.assert_close(net(entering()), expected)
    del net.body.layers[1]
    assert "was made of 6 steps and has 5 now" in refusal(net, entering())


def test_a_tensor_with_a_gradient_in_a_container_is_refused():
    net, _ = made(lambda: Block(lambda b, v: v + b.context[0]), "unlike")
    memory = torch.ones(WIDTH, dtype=torch.double)
    for wanted in (False, True):
        for part in net.modules():
            if isinstance(part, Block):
                vars(part)["context"] = [memory.requires_grad_(wanted)]
        if wanted:
            assert "in the list context" in refusal(net, entering())
        else:
            net(entering()).sum().backward()


@pytest.mark.parametrize("place", ["global", "nested", "hook"])
def test_a_graph_that_is_left_behind_anywhere_is_refused(place):
    kept: list[Tensor] = []

    def left(block: Any, v: Tensor) -> Tensor:
        if place == "global":
            kept.append(v.mean())
        if place == "nested":
            block.state = {"aux": [v.mean()]}
        return v

    net, _ = made(lambda: Block(left), "unlike")
    if place == "hook":
        net.body.layers[0].fc.register_forward_hook(lambda module, given, out: kept.append(out))
    assert "leaves a tensor with a graph" in refusal(net, entering())


def test_a_counter_on_which_nothing_depends_is_none_of_our_business():
    class Counts(Block):
        calls = 0

        def forward(self, u: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(u)

    class WarmsUp(Counts):
        def forward(self, u: Tensor) -> Tensor:
            v = super().forward(u)
            return v if self.calls > 100 else 2 * v

    net, twin = made(Counts, "unlike")
    assert_twins(net, twin, entering())
    net, _ = made(WarmsUp, "unlike")
    assert "changes its attribute calls" in refusal(net, entering())


@pytest.mark.parametrize("solver", ["serial", "mgrit"])
def test_evaluation_in_inference_mode(solver):
    net, twin = made(Block, "unlike", solver)
    with torch.inference_mode():
        torch.testing.assert_close(net(entering()), twin(entering()), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_blocks_that_detach(body, solver):
    net, twin = made(lambda: Block(detached), body, solver)
    assert_twins(net, twin, entering())


def detached(block: Any, v: Tensor) -> Tensor:
    return v.detach() + block.fc.bias


def test_what_follows_may_change_the_last_state_in_place():
    net, _ = made(Block, "unlike")
    whole = lp.Network(nn.Linear(WIDTH, WIDTH).double(), net.body, nn.ReLU(inplace=True), lp.Serial())
    whole(entering()).sum().backward()
    assert all(p.grad is not None for p in whole.parameters())


def test_hooks_of_tensors_that_vmap_leaves_out_are_noticed():
    class Hooked(Block):
        def forward(self, u: Tensor) -> Tensor:
            return u + 0.1 * halved(torch.tanh(self.fc(u)))

    net, twin = made(Hooked, "unlike", "mgrit")
    assert_twins(net, twin, entering())
    net, _ = made(Hooked, "stacked", "mgrit")
    assert "torch.vmap" in refusal(net, entering())


def halved(v: Tensor) -> Tensor:
    if v.requires_grad:
        v.register_hook(lambda g: 0.5 * g)
    return v


def test_modules_outside_that_share_with_a_stack_are_refused():
    torch.manual_seed(0)
    head, blocks = nn.Linear(WIDTH, WIDTH).double(), [Block() for _ in range(DEPTH)]
    head.weight = blocks[0].fc.weight
    model = nn.Sequential(*blocks, head)
    with pytest.raises(ValueError, match="share a parameter"):
        lp.Network.from_modules(model, entering(), stacked=True)
    net = lp.Network.from_modules(model, entering())
    net(entering()).sum().backward()
    found = head.weight.grad
    model.zero_grad()
    model(entering()).sum().backward()
    torch.testing.assert_close(found, head.weight.grad)


def test_a_gate_of_zero_does_not_hide_that_samples_are_mixed():
    class Gated(Block):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Parameter(torch.zeros((), dtype=torch.double))

        def forward(self, u: Tensor) -> Tensor:
            return u + self.gate * (self.fc(u) - self.fc(u).mean(0))

    net, twin = made(Gated, "tied", "mgrit")
    net(entering())
    for module in (net, twin):
        for part in module.modules():
            if isinstance(part, Gated):
                part.gate.data.fill_(0.1)
    assert_twins(net, twin, entering())


# ---- buffers of other kinds ------------------------------------------------------------------------


def quantised(values: Tensor) -> Tensor:
    return torch.quantize_per_tensor(values, 0.1, 0, torch.qint8)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [Tensor.to_sparse, quantised])
@pytest.mark.parametrize("body", BODIES)
def test_buffers_that_are_sparse_or_quantised(kind, body):
    """The adjacency of a graph, say."""

    def gathered(block: Any, v: Tensor) -> Tensor:
        a = block.adjacency
        return v + 0.1 * (a.dequantize().double() @ v if a.is_quantized else a @ v)

    def halving(block: Any, v: Tensor) -> Tensor:
        block.adjacency = block.adjacency * 0.5
        return gathered(block, v)

    def block(more: Any = gathered) -> nn.Module:
        made = Block(more)
        values = torch.eye(5) if kind is quantised else torch.eye(5, dtype=torch.double)
        made.register_buffer("adjacency", kind(values))
        return made

    net, twin = made(block, body)
    assert_twins(net, twin, entering())
    net.load_state_dict(net.state_dict())
    net.solver = SOLVERS["mgrit"]
    if body == "unlike":
        assert_twins(net, twin, entering())
    if kind is not quantised:
        net, _ = made(lambda: block(halving), body)
        assert "changes its buffer adjacency" in refusal(net, entering())


@pytest.mark.filterwarnings("ignore")
def test_buffers_of_compressed_rows():
    """PyTorch cannot copy them (2.13), so the blocks are their own twins."""
    torch.manual_seed(0)
    blocks = [Block(lambda b, v: v + 0.1 * (b.adjacency @ v)) for _ in range(DEPTH)]
    for block in blocks:
        block.register_buffer("adjacency", torch.eye(5, dtype=torch.double).to_sparse_csr())
    expected = nn.Sequential(*blocks)(entering())
    out = lp.Network(None, lp.chain(blocks, integrator="block"), None)(entering())
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)


# ---- what begins later -----------------------------------------------------------------------------


class Switched(Block):
    """Does more when it is switched on."""

    def __init__(self, more: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.on, self.later = False, more

    def forward(self, u: Tensor) -> Tensor:
        return self.later(self, super().forward(u)) if self.on else super().forward(u)


def switch(*modules: nn.Module) -> None:
    for module in modules:
        for part in module.modules():
            if isinstance(part, Switched):
                part.on = True


def centred(block: Any, v: Tensor) -> Tensor:
    return v - v.mean(0)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_samples_that_are_mixed_later(body, solver):
    net, twin = made(lambda: Switched(centred), body, solver)
    assert_twins(net, twin, entering())
    switch(net, twin)
    assert_twins(net, twin, entering())


def left(block: Any, v: Tensor) -> Tensor:
    block.auxiliary = v.square().mean()
    return v


def left_in_a_list(block: Any, v: Tensor) -> Tensor:
    LEFT.append(v.mean())
    return v


LEFT: list[Tensor] = []


@pytest.mark.parametrize("more", [left, left_in_a_list])
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_loss_that_is_left_behind_later_is_refused_before_the_solve(more, body, solver):
    net, twin = made(lambda: Switched(more), body, solver)
    assert_twins(net, twin, entering())
    switch(net)
    with pytest.raises(ValueError, match="leaves a tensor with a graph"):
        net(entering())
    LEFT.clear()


@pytest.mark.parametrize("retained", [False, True])
@pytest.mark.parametrize("solver", ["serial", "recomputed"])
def test_a_loss_that_is_left_behind_by_a_switch_elsewhere_is_refused_at_the_gradient(solver, retained):
    switches = {"on": False}

    def elsewhere(block: Any, v: Tensor) -> Tensor:
        if switches["on"]:
            LEFT.append(v.square().mean() + block.fc.bias.sum())
        return v

    net, twin = made(lambda: Block(elsewhere), "unlike", solver)
    assert_twins(net, twin, entering())
    switches["on"] = True
    out = net(entering())
    if retained and solver == "serial":
        LEFT[0].backward(retain_graph=True)
    with pytest.raises(ValueError, match="leaves a tensor with a graph"):
        out.sum().backward(retain_graph=retained and solver == "serial")
    LEFT.clear()


def test_a_tensor_with_a_gradient_that_a_step_replaces_is_refused():
    def replacing(block: Any, v: Tensor) -> Tensor:
        block.memory = block.memory * 0.9
        return v + block.memory

    net, _ = made(lambda: Block(replacing), "unlike")
    for part in net.modules():
        if isinstance(part, Block):
            part.memory = torch.ones(WIDTH, dtype=torch.double, requires_grad=True)
    assert "puts another tensor in place of memory" in refusal(net, entering())


def test_steps_that_are_switched_over_at_random_are_examined_once_in_each_way():
    """Layers that the training loop leaves out."""
    calls = [0]

    class Dropped(Block):
        skip = False

        def forward(self, u: Tensor) -> Tensor:
            calls[0] += 1
            return u if self.skip else super().forward(u)

    net, twin = made(Dropped, "unlike")
    spent = []
    for skipped in ([], [0, 3], [3, 5], [0, 5], [0, 3, 5], []):
        for module in (net.body.layers, twin):
            for n, block in enumerate(module):
                block.skip = n in skipped
        assert_twins(net, twin, entering())
        calls[0] = 0
        net(entering()).sum().backward()
        spent.append(calls[0])
    assert set(spent) == {DEPTH}
    for skipped in ([1], [0, 1], [3, 1], [1, 5]):
        for n, block in enumerate(net.body.layers):
            block.skip = n in skipped
        calls[0] = 0
        net(entering()).sum().backward()
        spent.append(calls[0])
    assert spent[-4:] == [DEPTH + 2, DEPTH, DEPTH, DEPTH]
