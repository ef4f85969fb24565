"""Checkpoints: whole or passed over, verified before they are unpickled."""

import hashlib
import json
import os
import pickle

import pytest
import small
import torch
from small import Killed

from layerparallel.runs import checkpoint
from layerparallel.runs.checkpoint import CheckpointError, Moment, entries

TENSORS = "__0_0.distcp"


def state(value):
    return {"network": {"weight": torch.full((3, 2), float(value))}, "progress": {"seconds": value}}


def test_a_state_comes_back_bitwise_with_its_moment(tmp_path):
    network = {"weight": torch.randn(5, 3, dtype=torch.float64)}
    folder = checkpoint.save(tmp_path, Moment(1, 7, 3), {"network": network, "rng": torch.arange(4)})
    found = checkpoint.load(folder)
    assert found.moment == Moment(1, 7, 3)
    assert torch.equal(found.state["network"]["weight"], network["weight"])
    assert found.state["rng"].tolist() == [0, 1, 2, 3]


def test_the_last_two_are_kept_and_the_latest_is_found(tmp_path):
    for epoch in range(9, 13):  # 9 to 10: text order must be the order in time
        checkpoint.save(tmp_path, Moment(0, epoch, 0), state(epoch))
    assert len(list((tmp_path / checkpoint.FOLDER).iterdir())) == 2
    latest = checkpoint.latest(tmp_path)
    assert latest is not None
    assert latest.moment.epoch == 12
    assert latest.state["progress"]["seconds"] == 12


def test_without_checkpoints_there_is_no_latest(tmp_path):
    assert checkpoint.latest(tmp_path) is None


def damage(folder, how):
    manifest, payload = folder / checkpoint.MANIFEST, folder / TENSORS
    if how == "half-written":
        manifest.unlink()
    elif how == "lacks __0_0.distcp":
        payload.unlink()
    elif how == "does not match its checksum":
        content = bytearray(payload.read_bytes())
        content[len(content) // 2] ^= 1
        payload.write_bytes(content)
    elif how == "damaged manifest":
        manifest.write_bytes(manifest.read_bytes()[:20])
    elif how == "has format 99":
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
    elif how == "does not exist":
        folder.rename(folder.with_name("elsewhere-not-a-moment")).joinpath(checkpoint.MANIFEST).unlink()


@pytest.mark.parametrize(
    "how",
    [
        "half-written",
        "lacks __0_0.distcp",
        "does not match its checksum",
        "damaged manifest",
        "has format 99",
        "does not exist",
    ],
)
def test_a_damaged_one_is_refused_by_name_and_passed_over_by_latest(tmp_path, how):
    checkpoint.save(tmp_path, Moment(0, 1, 0), state(1))
    second = checkpoint.save(tmp_path, Moment(0, 2, 0), state(2))
    damage(second, how)
    with pytest.raises(CheckpointError, match=how) as caught:
        checkpoint.load(second)
    assert "\n" not in str(caught.value)
    latest = checkpoint.latest(tmp_path)
    assert latest is not None
    assert latest.moment.epoch == 1


class Evil:
    def __reduce__(self):
        return print, ("code from a checkpoint ran",)


def sealed(folder):
    """The manifest says that what is in the folder is right."""
    manifest = folder / checkpoint.MANIFEST
    told = json.loads(manifest.read_text())
    told["sha256"] = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in told["sha256"]
    }
    manifest.write_text(json.dumps(told))


@pytest.mark.parametrize("name", ["plain.pt", ".metadata"])
def test_a_payload_is_neither_unpickled_unverified_nor_able_to_run_code(tmp_path, capsys, name):
    folder = checkpoint.save(tmp_path, Moment(0, 1, 0), state(1))
    (folder / name).write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(CheckpointError, match="checksum"):
        checkpoint.load(folder)
    sealed(folder)
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        _ = checkpoint.load(folder).state
    assert capsys.readouterr().out == ""


def test_a_half_written_one_in_the_way_is_replaced_and_those_around_are_cleared(tmp_path):
    for epoch in (1, 2, 3):
        damage(checkpoint.save(tmp_path, Moment(0, epoch, 0), state(epoch)), "half-written")
    folder = checkpoint.save(tmp_path, Moment(0, 2, 0), state(20))
    assert checkpoint.load(folder).state["progress"]["seconds"] == 20
    assert list((tmp_path / checkpoint.FOLDER).iterdir()) == [folder]


def test_a_kill_at_any_write_leaves_the_earlier_checkpoint(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, Moment(0, 1, 0), state(1))
    sync, written, survived = os.fsync, 0, 0

    def until_killed(file):  # every file, and every folder that has a new one, is synchronised
        nonlocal written
        if written == survived:
            raise Killed
        written += 1
        sync(file)

    monkeypatch.setattr(os, "fsync", until_killed)
    while True:
        written = 0
        try:
            checkpoint.save(tmp_path, Moment(0, 2, 0), state(2))
            break
        except Killed:
            survived += 1
            latest = checkpoint.latest(tmp_path)
            assert latest is not None
            # only the synchronisation of the folder comes behind the manifest
            manifest = tmp_path / checkpoint.FOLDER / str(Moment(0, 2, 0)) / checkpoint.MANIFEST
            assert latest.moment.epoch == (2 if manifest.exists() else 1)
            assert latest.state["progress"]["seconds"] == latest.moment.epoch
            if latest.moment.epoch == 2:
                (latest.path / checkpoint.MANIFEST).unlink()
    assert survived >= 6  # tensors, metadata, plain values with their folder, manifest, folders


# ---- what is in it ------------------------------------------------------------------------------


def test_every_kind_of_state_comes_back_as_it_was(tmp_path):
    layers = {f"body.{n}.0.weight": torch.randn(2, 3) for n in range(5)}
    moments = {name: {"m": w.double(), "step": torch.tensor(3.0)} for name, w in layers.items()}
    given = {
        "network": {**layers, "opening.weight": torch.tensor(2.0), "a/b{n}.c%": torch.arange(2)},
        "optimizer": {
            "state": moments,
            "groups": [{"lr": 0.1, "betas": (0.9, 0.99), "params": [1, 2]}],
            "nothing": {},
        },
        "empty": torch.zeros(0, 4),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "guesses": [("key", torch.ones(2)), (None, None)],
        "numbers": {1: torch.ones(1), 2: "text"},
    }
    folder = checkpoint.save(tmp_path, Moment(0, 0, 0), given, layers={"body.": 5})
    assert small.same(checkpoint.load(folder).state, given)
    arrays = {each.name for each in checkpoint.load(folder)._arrays}
    assert "network/body.{n}.0.weight" in arrays
    assert len(arrays) == 7  # five layers in one array


@pytest.mark.parametrize("chunk", [1, 100, 1 << 20])
def test_rows_come_back_whatever_pieces_they_were_saved_in(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(entries, "CHUNK_BYTES", chunk)
    layers = {f"body.{n}.w": torch.full((7,), float(n)) for n in range(13)}
    folder = checkpoint.save(tmp_path, Moment(0, 0, 0), {"network": layers}, layers={"body.": 13})
    assert small.same(checkpoint.load(folder).state["network"], layers)


def test_a_checkpoint_of_another_network_is_refused_in_one_sentence(tmp_path):
    layers = {f"body.{n}.w": torch.zeros(3) for n in range(4)}
    folder = checkpoint.save(tmp_path, Moment(0, 0, 0), {"network": layers}, layers={"body.": 4})
    found = checkpoint.load(folder)
    assert small.same(found.of(layers)["network"], layers)
    others = [
        ({**layers, "body.4.w": torch.zeros(3)}, "it has no body.4.w"),
        (
            {**layers, "body.1.w": torch.zeros(2)},
            "body.1.w is (3,) of torch.float32 there and (2,) of torch.float32 in the network",
        ),
        ({"body.0.w": torch.zeros(3)}, "it has body.1.w, which the network has not"),
    ]
    for network, said in others:
        with pytest.raises(CheckpointError) as caught:
            found.of(network)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float64])
def test_another_dtype_is_refused_by_name(tmp_path, dtype):
    """torch.distributed.checkpoint would copy 0.5 into integers, and into True."""
    saved = {"weight": torch.full((3,), 0.5), "count": torch.tensor(7)}
    found = checkpoint.load(checkpoint.save(tmp_path, Moment(0, 0, 0), {"network": saved}))
    assert small.same(found.of(saved)["network"], saved)
    with pytest.raises(CheckpointError) as caught:
        found.of({**saved, "weight": saved["weight"].to(dtype)})
    said = f"weight is (3,) of torch.float32 there and (3,) of {dtype} in the network; build the network"
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("other", [torch.zeros(3, dtype=torch.int64), torch.zeros(4)])
def test_layers_of_several_dtypes_or_shapes_are_not_saved_as_one(tmp_path, other):
    layers = {"body.0.w": torch.full((3,), 0.5), "body.1.w": other}
    with pytest.raises(
        CheckpointError, match=r"the layers' network/body.\{n\}.w is \(.,\) of"
    ) as caught:
        checkpoint.save(tmp_path, Moment(0, 0, 0), {"network": layers}, layers={"body.": 2})
    assert "\n" not in str(caught.value)
    assert checkpoint.latest(tmp_path) is None


@pytest.mark.parametrize("name", [TENSORS, ".metadata", "plain.pt"])
@pytest.mark.parametrize("how", ["gone", "cut", "emptied"])
def test_what_is_lost_behind_its_checksum_is_told_in_one_sentence(tmp_path, name, how):
    """The error of torch.distributed.checkpoint is no Exception, and of many lines."""
    folder = checkpoint.save(tmp_path, Moment(0, 1, 0), state(1))
    if how != "gone":
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2 if how == "cut" else 0])
        sealed(folder)
    found = checkpoint.load(folder)
    if how == "gone":
        (folder / name).unlink()
    with pytest.raises(CheckpointError, match=r"cannot be read|holds more") as caught:
        _ = found.state
    assert "\n" not in str(caught.value)
