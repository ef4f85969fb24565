"""What writers and readers of checkpoints meet: whose memory a state is, and what may be missing."""

import copy
import io

import pytest
import torch
from plain_loop import EXACT, SOLVERS, data, network
from small import same
from torch import Tensor, nn

import layerparallel as lp
from layerparallel.network.stacking import layers_as_views
from layerparallel.runs.checkpoint import entries
from layerparallel.training.layerwise import chains

MULTIGRID = SOLVERS["multigrid"]


def storage(a: Tensor) -> int:
    return a.untyped_storage().data_ptr()


def test_every_layer_has_a_storage_of_its_own_in_the_networks_memory():
    net = network(MULTIGRID, stateful=True)
    state = {name: a for name, a in net.state_dict().items() if not name.endswith(".scale")}
    assert len({storage(a) for a in state.values()}) == len(state)
    assert all(a.untyped_storage().nbytes() == a.nbytes for a in state.values())
    for a in state.values():
        a.fill_(3)  # as averages of weights are written
    assert all(bool((p == 3).all()) for p in net.parameters())
    assert all(bool((b == 3).all()) for name, b in net.named_buffers() if not name.endswith(".scale"))


def test_a_state_outlives_its_network():
    state = network(MULTIGRID).state_dict()
    assert same(state, network(MULTIGRID).state_dict())


def test_with_keep_vars_a_state_is_in_the_graph():
    net = network(MULTIGRID)
    state = net.state_dict(keep_vars=True)
    state["body.0.3.weight"].sum().backward()
    gradient = net.get_parameter("body.0.layer.weight").grad
    assert gradient is not None
    assert gradient.flatten(1).sum(dim=1).nonzero().tolist() == [[3]]


def test_a_run_joins_the_layers_without_a_copy():
    net = network(MULTIGRID, stateful=True)
    with layers_as_views():
        tensors, _ = entries.flat({"network": net.state_dict()})
    found = {each.name: each.value for each in entries.chunks(tensors, chains(net))}
    stacks = [p for chain in net.chains for p in chain.parameters()]
    assert {storage(p) for p in stacks} <= {storage(a) for a in found.values()}


def test_a_buffer_of_all_layers_is_taken_from_one_of_them():
    """Writers that keep one tensor of each storage leave the others out."""
    net = network(MULTIGRID)
    state = net.state_dict()
    for n in range(1, 16):
        del state[f"body.2.{n}.scale"]
    state["body.2.0.scale"] = torch.tensor(0.3)
    with pytest.raises(RuntimeError, match=r"Missing key.*body\.2\.1\.scale"):
        net.load_state_dict(state)
    found = net.load_state_dict(state, strict=False)
    assert sorted(found.missing_keys) == sorted(f"body.2.{n}.scale" for n in range(1, 16))
    assert net.get_buffer("body.2.layer.scale") == torch.tensor(0.3)


@pytest.mark.parametrize("assign", [True, False])
def test_a_network_without_values_takes_a_state(assign: bool):
    other = network(MULTIGRID, stateful=True)
    with torch.device("meta"):
        net = network(MULTIGRID, stateful=True)
    assert all(a.is_meta for a in net.state_dict().values())
    if not assign:
        net.to_empty(device="cpu")
    net.load_state_dict(other.state_dict(), assign=assign)
    x = data().tensors[0]
    assert torch.equal(net.eval()(x), other.eval()(x))


SOLVED_BY = {**EXACT, "split": lp.Split(lp.Serial(), MULTIGRID), "levels": lp.MGRIT(3, (4, 2))}


@pytest.mark.parametrize("solver", SOLVED_BY.values(), ids=SOLVED_BY)
def test_a_checkpoint_may_hold_a_solver(solver: lp.Serial | lp.MGRIT | lp.Split):
    file = io.BytesIO()
    torch.save({"solver": solver}, file)
    file.seek(0)
    assert torch.load(file, weights_only=True) == {"solver": solver}


@pytest.mark.parametrize("stacked", [True, False])
def test_batch_norms_may_be_moved_after_use(stacked: bool):
    """Their statistics are other tensors then."""
    torch.manual_seed(0)
    steps = [nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3)) for _ in range(8)]

    def made() -> lp.Network:
        chain = lp.chain(copy.deepcopy(steps), stacked=stacked)
        return lp.Network(None, chain, None, lp.MGRIT(coarsening=2))

    x, moved, fresh = torch.randn(9, 3), made(), made().double()
    moved(x).sum().backward()
    moved.double()
    fresh.load_state_dict(moved.state_dict())
    for net in (moved, fresh):
        net(x.double()).sum().backward()
    assert same(moved.state_dict(), fresh.state_dict())
    assert int(moved.state_dict()["body.7.0.num_batches_tracked"]) == 2
