"""Checkpoints of ranks: saved on P, read on Q or in one process, whole or passed over."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import layerparallel as lp
from layerparallel.group import ALONE
from layerparallel.runs import checkpoint
from layerparallel.runs.checkpoint import CheckpointError, Moment
from layerparallel.training import layerwise

STEPS = 3


def network(shape: str, width: int = 3) -> lp.Network:
    """The same on every rank."""
    torch.manual_seed(0)
    linear, solver = nn.Linear(2, width), lp.MGRIT(coarsening=2)
    ends = linear, nn.Linear(width, 2)
    if shape == "stacked":
        net = lp.Network(ends[0], lp.chain(lp.Dense(width), 7), ends[1], solver)
    elif shape == "few":  # fewer layers than ranks
        net = lp.Network(ends[0], lp.chain(lp.Dense(width), 2), ends[1], lp.Serial())
    elif shape == "sequential":  # names with more numbers than the layer's
        layer = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.Tanh())
        net = lp.Network(ends[0], lp.chain(layer, 6), ends[1], solver)
    elif shape == "unlike":
        layers = [
            nn.Sequential(nn.Linear(width, width + n), nn.Linear(width + n, width)) for n in range(4)
        ]
        net = lp.Network(ends[0], lp.chain(layers), ends[1], solver)
    else:  # two chains, one of them tied
        tied = lp.chain(lp.Dense(width + 1), 4, tied=True)
        parts = [lp.chain(lp.Dense(width), 6), nn.Linear(width, width + 1), tied]
        net = lp.Network(ends[0], parts, nn.Linear(width + 1, 2), solver)
    return net.double()


def optimizer(net: lp.Network, kind: str) -> torch.optim.Optimizer:
    if kind == "lbfgs":
        total, others = net.group.total, net.uncounted()
        return lp.LBFGS(net.parameters(), memory=3, total=total, uncounted=others)
    if kind == "sgd":
        return torch.optim.SGD(net.decay_groups(1e-3), lr=0.1, momentum=0.9)
    return torch.optim.Adam(net.parameters(), lr=0.01, fused=True)


class Job:
    """A network on a layer group with an optimiser, and what it trains on."""

    def __init__(self, group, shape: str, kind: str) -> None:
        self.group, self.net = group, network(shape)
        lp.distribute(self.net, group)
        self.optimizer = optimizer(self.net, kind)

    def train(self, first: int, steps: int) -> None:
        for step in range(first, first + steps):
            generator = torch.Generator().manual_seed(step)
            x, y = torch.randn(2, 6, 2, dtype=torch.float64, generator=generator)

            def closure(x=x, y=y):
                self.optimizer.zero_grad()
                loss = (self.net(x) - y).square().mean()
                loss.backward()
                return loss

            if not isinstance(self.optimizer, lp.LBFGS):
                closure()
                self.optimizer.step()
            else:
                self.optimizer.step(closure)

    def save(self, folder: str, epoch: int = 1) -> Path:
        state = {
            "network": self.net.state_dict(),
            "optimizer": layerwise.optimizer_state_dict(self.net, self.optimizer),
            "progress": {"order": torch.arange(3), "seconds": 1.5},
        }
        chains = layerwise.chains(self.net)
        moment = Moment(0, epoch, 0)
        return checkpoint.save(Path(folder), moment, state, layers=chains, group=self.group)

    def load(self, folder: str) -> None:
        found = checkpoint.latest(Path(folder), self.group)
        assert found is not None
        state = found.of(self.net.state_dict())
        assert state["progress"]["order"].tolist() == [0, 1, 2]
        self.net.load_state_dict(state["network"])
        layerwise.load_optimizer_state_dict(self.net, self.optimizer, state["optimizer"])


# ---- on the ranks -------------------------------------------------------------------------------


def begun(group, folder: str, shape: str, kind: str) -> dict:
    """Half of the training, a checkpoint, the other half; the parameters of this rank."""
    job = Job(group, shape, kind)
    job.train(0, STEPS)
    job.save(folder)
    job.train(STEPS, STEPS)
    return job.net.state_dict()


def ended(group, folder: str, shape: str, kind: str) -> dict:
    """The other half from a checkpoint."""
    job = Job(group, shape, kind)
    job.load(folder)
    job.train(STEPS, STEPS)
    return job.net.state_dict()


def joined(parts: list[dict]) -> dict:
    return {name: value for part in parts for name, value in part.items()}


CASES = [
    (2, 3, "stacked", "adam"),
    (3, 2, "stacked", "lbfgs"),
    (1, 4, "chains", "sgd"),
    (3, 1, "sequential", "adam"),
    (2, 4, "unlike", "adam"),
    (5, 2, "few", "sgd"),
    (2, 5, "few", "adam"),
    (4, 3, "unlike", "lbfgs"),
    (2, 3, "chains", "lbfgs"),
]


@pytest.mark.parametrize(("saved_on", "read_on", "shape", "kind"), CASES)
def test_training_goes_on_as_if_on_one_process(pool, tmp_path, saved_on, read_on, shape, kind):
    folder = str(tmp_path)
    unbroken = joined(pool.run(saved_on, begun, folder, shape, kind))
    same = joined(pool.run(saved_on, ended, folder, shape, kind))
    assert unbroken.keys() == same.keys()
    for name, value in unbroken.items():
        assert torch.equal(same[name], value), name  # on as many ranks bitwise
    other = joined(pool.run(read_on, ended, folder, shape, kind))
    one = begun(ALONE, str(tmp_path / "one"), shape, kind)
    assert other.keys() == one.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("shape", ["stacked", "sequential", "unlike", "chains"])
def test_a_checkpoint_of_ranks_is_a_plain_serial_modules(pool, tmp_path, shape):
    parts = pool.run(3, begun_only, str(tmp_path), shape)
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert found.ranks == 3
    serial = network(shape).to_serial()
    serial.load_state_dict(found.state["network"])  # all names, and no others
    for name, value in joined(parts).items():
        assert torch.equal(serial.state_dict()[name], value)
    adam = torch.optim.Adam(serial.parameters())
    lp.load_optimizer_state(serial, adam, found.state["optimizer"]["state"])
    x = torch.randn(6, 2, dtype=torch.float64)
    serial(x).square().mean().backward()
    adam.step()
    assert {int(state["step"]) for state in adam.state.values()} == {STEPS + 1}


def begun_only(group, folder: str, shape: str) -> dict:
    job = Job(group, shape, "adam")
    job.train(0, STEPS)
    job.save(folder)
    return job.net.state_dict()


def test_every_rank_writes_its_own_layers_only(pool, tmp_path):
    pool.run(3, begun_only, str(tmp_path), "stacked")
    found = checkpoint.latest(tmp_path)
    assert found is not None
    sums = json.loads((found.path / checkpoint.MANIFEST).read_text())["sha256"]
    assert sorted(sums) == [".metadata", *(f"__{r}_0.distcp" for r in range(3)), "plain.pt"]
    assert sorted(path.name for path in found.path.iterdir()) == sorted([*sums, checkpoint.MANIFEST])


# ---- what goes wrong ----------------------------------------------------------------------------


def refused(group, folder: str, shape: str, width: int) -> str:
    """What every rank is told of a checkpoint that is not its network's."""
    net = network(shape, width)
    lp.distribute(net, group)
    found = checkpoint.latest(Path(folder), group)
    assert found is not None
    with pytest.raises(CheckpointError) as caught:
        found.of(net.state_dict())
    return str(caught.value)


@pytest.mark.parametrize(
    ("shape", "width", "said"),
    [
        ("few", 3, "it has body.2."),  # fewer layers
        ("stacked", 4, "is (3, 2) of torch.float64 there and (4, 2) of torch.float64 in the network"),
        ("chains", 3, "it has no body.0."),
    ],
)
def test_a_checkpoint_of_another_network_is_refused_on_every_rank(pool, tmp_path, shape, width, said):
    begun_only(ALONE, str(tmp_path), "stacked")
    told = pool.run(3, refused, str(tmp_path), shape, width)
    assert said in told[0]
    assert told == [told[0]] * 3
    assert "\n" not in told[0]


def looked_at(group, folder: str) -> tuple[str, int]:
    """What is said of the last checkpoint, and the epoch of the one that is taken."""
    folders = sorted((Path(folder) / checkpoint.FOLDER).iterdir())
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(folders[-1], group)
    found = checkpoint.latest(Path(folder), group)
    assert found is not None
    return str(caught.value), found.moment.epoch


@pytest.mark.parametrize("name", ["__1_0.distcp", ".metadata", "plain.pt", checkpoint.MANIFEST])
def test_damage_is_seen_by_every_rank_before_anything_is_read(pool, tmp_path, name):
    pool.run(2, saved_twice, str(tmp_path))
    path = sorted((tmp_path / checkpoint.FOLDER).iterdir())[-1] / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    told = pool.run(3, looked_at, str(tmp_path))
    assert told == [told[0]] * 3
    assert told[0][1] == 1
    assert "\n" not in told[0][0]


def saved_twice(group, folder: str) -> None:
    job = Job(group, "stacked", "adam")
    job.train(0, 1)
    for epoch in (1, 2):
        job.save(folder, epoch)


def full_disk(group, folder: str) -> tuple[str, int]:
    """One rank cannot write: what every rank is told, and which checkpoint is left."""
    from layerparallel.runs.checkpoint import shards

    job = Job(group, "stacked", "adam")
    job.save(folder, 1)
    write = shards.FileSystemWriter.write_data

    def failing(self, *arguments):
        raise OSError(28, "No space left on device")

    if group.rank == 1:
        setattr(shards.FileSystemWriter, "write_data", failing)  # noqa: B010
    try:
        with pytest.raises(CheckpointError) as caught:
            job.save(folder, 2)
    finally:
        setattr(shards.FileSystemWriter, "write_data", write)  # noqa: B010
    found = checkpoint.latest(Path(folder), group)
    assert found is not None
    return str(caught.value), found.moment.epoch


def test_a_full_disk_of_one_rank_is_told_to_all(pool, tmp_path):
    told = pool.run(3, full_disk, str(tmp_path))
    assert told == [told[0]] * 3
    assert "No space left on device" in told[0][0]
    assert told[0][1] == 1


def mixed(group, folder: str) -> str:
    """One rank's layers are of another dtype than the others'."""
    job = Job(group, "stacked", "sgd")
    if group.rank == 1:
        job.net.float()
    with pytest.raises(CheckpointError) as caught:
        job.save(folder)
    return str(caught.value)


def test_layers_of_several_dtypes_are_refused_on_every_rank(pool, tmp_path):
    told = pool.run(3, mixed, str(tmp_path))
    assert told == [told[0]] * 3
    assert "is (3, 3) of torch.float32 and (3, 3) of torch.float64" in told[0]
    assert checkpoint.latest(tmp_path) is None


def lost(group, folder: str) -> str:
    """A file that only one rank reads is lost behind the checksums."""
    job = Job(group, "stacked", "adam")
    job.save(folder)
    found = checkpoint.latest(Path(folder), group)
    assert found is not None
    if group.first:
        (found.path / "__1_0.distcp").unlink()
    group.gather(None)
    with pytest.raises(CheckpointError) as caught:
        found.of(job.net.state_dict())
    return str(caught.value)


def test_a_shard_that_one_rank_cannot_read_is_told_to_all(pool, tmp_path):
    told = pool.run(3, lost, str(tmp_path))
    assert told == [told[0]] * 3
    assert "cannot be read" in told[0]
    assert "\n" not in told[0]
