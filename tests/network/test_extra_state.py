"""What modules keep beside their tensors (`get_extra_state`), wherever a state goes."""

import copy

import pytest
import torch
from extra_states import network
from small import same

import layerparallel as lp
from layerparallel.runs import checkpoint
from layerparallel.runs.checkpoint import CheckpointError, Moment
from layerparallel.training import layerwise

KINDS = ["template", "stacked", "unlike", "tied", "two"]
FORMS = pytest.mark.parametrize("kept", [dict, torch.Tensor])
X = torch.linspace(-1, 1, 15).view(5, 3)


@FORMS
@pytest.mark.parametrize("kind", KINDS)
def test_it_goes_from_network_to_network_and_to_plain_ones_and_back(kind, kept):
    net, other = network(kind, 2.0, kept), network(kind, 1.0, kept)
    plain = other.to_serial()
    expected = net.eval()(X)
    other.load_state_dict(net.state_dict())
    plain.load_state_dict(net.state_dict())
    assert same(net.state_dict(), plain.state_dict())
    back = network(kind, 3.0, kept).eval()
    back.load_state_dict(plain.state_dict())
    for each in (other, back, net.to_serial(), copy.deepcopy(net)):
        torch.testing.assert_close(each.eval()(X), expected)
    torch.testing.assert_close(plain.eval()(X), expected)


@FORMS
@pytest.mark.parametrize("kind", KINDS)
def test_it_comes_back_from_a_checkpoint(tmp_path, kind, kept):
    net, other = network(kind, 2.0, kept), network(kind, 1.0, kept)
    layers = layerwise.chains(net)
    checkpoint.save(tmp_path, Moment(0, 0, 0), {"network": net.state_dict()}, layers=layers)
    found = checkpoint.latest(tmp_path)
    assert found is not None
    other.load_state_dict(found.of(other.state_dict())["network"])
    assert torch.equal(other.eval()(X), net.eval()(X))


@pytest.mark.parametrize("kind", ["template", "tied"])
def test_a_refined_network_keeps_it(kind):
    deeper = lp.refine(network(kind, 2.0), 2)
    kept = [state for name, state in deeper.state_dict().items() if name.endswith("_extra_state")]
    assert len(kept) == {"template": 9, "tied": 2}[kind]
    assert {state["scale"] for state in kept} == {2.0}


def test_layers_of_a_stack_that_differ_in_it_are_refused():
    net = network("template", 1.0)
    state = net.to_serial().state_dict()
    state["body.2._extra_state"] = {"scale": 5.0, "more": [torch.tensor([5.0])]}
    with pytest.raises(ValueError, match=r"the 4 layers have different extra state layer._extra_state"):
        net.load_state_dict(state)


def test_a_state_without_it_is_not_loaded():
    net = network("template", 1.0)
    state = {k: v for k, v in net.state_dict().items() if not k.startswith("body.1._extra")}
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "body.1._extra_state"'):
        net.load_state_dict(state)


class Odd:
    """Nothing that torch.load reads with weights_only."""


def test_what_could_not_be_read_back_is_not_saved(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds an object of .*Odd.*add_safe_globals") as caught:
        checkpoint.save(tmp_path, Moment(0, 0, 0), {"network": {"layer._extra_state": {"odd": Odd()}}})
    assert "\n" not in str(caught.value)
    assert checkpoint.latest(tmp_path) is None


def test_a_checkpoint_of_other_extra_state_is_refused_by_name(tmp_path):
    net = network("template", 1.0)
    folder = checkpoint.save(tmp_path, Moment(0, 0, 0), {"network": net.state_dict()})
    found, state = checkpoint.load(folder), net.state_dict()
    with pytest.raises(CheckpointError, match=r"it has no other._extra_state"):
        found.of({**state, "other._extra_state": {}})
    del state["opening._extra_state"]
    with pytest.raises(CheckpointError, match=r"it has opening._extra_state, which the network has not"):
        found.of(state)
