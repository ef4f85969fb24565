"""Nested iteration in depth: the same functions of time, sampled more finely."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn

import layerparallel as lp
from layerparallel.network.refinement import interpolate, refine


def network(depth, **options):
    torch.manual_seed(0)
    return lp.Network(
        nn.Linear(2, 6), lp.chain(lp.Dense(6), depth, T=3.0, **options), nn.Linear(6, 3)
    ).double()


def test_interpolation_is_exact_for_linear_functions_of_time_and_constant_behind_the_last():
    coarse = torch.arange(4.0)[:, None]
    fine = interpolate(coarse, 4)[:, 0]
    assert torch.equal(fine[:13], torch.arange(13.0) / 4)
    assert torch.equal(fine[13:], torch.full((3,), 3.0))


def test_refinement_keeps_the_final_time_every_coarse_layer_and_the_ends():
    coarse = network(8)
    before = copy.deepcopy(coarse.state_dict())
    fine = refine(coarse, 3)
    assert fine.body.depth == 24
    assert fine.body.h * 24 == pytest.approx(3.0)
    state = fine.state_dict()
    assert all(torch.equal(state[f"body.{3 * n}.weight"], before[f"body.{n}.weight"]) for n in range(8))
    assert torch.equal(state["opening.weight"], before["opening.weight"])
    assert torch.equal(state["closing.bias"], before["closing.bias"])
    assert all(torch.equal(before[name], value) for name, value in coarse.state_dict().items())


@pytest.mark.parametrize("options", [{"initial": "smooth"}, {"tied": True}])
def test_the_output_converges_as_the_depth_grows(options):
    coarse, x = network(32, **options), torch.randn(5, 2, dtype=torch.float64)
    outputs = [coarse(x)]
    for _ in range(3):
        coarse = refine(coarse, 2)
        outputs.append(coarse(x))
    changes = [(b - a).norm().item() for a, b in pairwise(outputs)]
    assert changes[0] < 0.1 * outputs[0].norm()
    for before, after in pairwise(changes):
        assert after == pytest.approx(before / 2, rel=0.2)  # first order in h


def test_the_refined_network_trains_and_leaves_the_coarse_one_alone():
    coarse = network(4)
    fine = refine(coarse, 2)
    fine(torch.randn(3, 2, dtype=torch.float64)).sum().backward()
    assert all(parameter.grad is not None for parameter in fine.parameters())
    assert all(parameter.grad is None for parameter in coarse.parameters())


def test_a_plain_step_function_is_refined_by_its_step_size():
    net = lp.Network(None, lp.chain(lambda u, t, dt: u + dt * t, 4, T=1.0), None)
    fine = refine(net, 8)
    x = torch.zeros(1, 1)
    assert net(x).item() == pytest.approx(0.375)  # left Riemann sums of t over [0, 1]
    assert fine(x).item() == pytest.approx(0.5 - 0.5 / 32)


def test_what_cannot_be_refined_is_refused():
    with pytest.raises(ValueError, match="factor = 1"):
        refine(network(4), 1)
    layers = [nn.Linear(2, 2), nn.Tanh()]
    with pytest.raises(ValueError, match="nothing between two layers"):
        refine(lp.Network(None, lp.chain(layers), None), 2)
    block = lp.chain(nn.Linear(2, 2), 4, integrator="block")
    with pytest.raises(ValueError, match="nothing between two layers"):
        refine(lp.Network(None, block, None), 2)
