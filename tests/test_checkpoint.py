"""Checkpoints: whole or passed over, verified before they are unpickled."""

import json
import pickle

import pytest
import torch

from layerparallel import checkpoint
from layerparallel.checkpoint import CheckpointError, Moment


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
    manifest, payload = folder / checkpoint.MANIFEST, folder / "network.pt"
    if how == "half-written":
        manifest.unlink()
    elif how == "lacks network.pt":
        payload.unlink()
    elif how == "does not match its checksum":
        content = bytearray(payload.read_bytes())
        content[len(content) // 2] ^= 1
        payload.write_bytes(content)
    elif how == "manifest of the checkpoint":
        manifest.write_bytes(manifest.read_bytes()[:20])
    elif how == "has format 99":
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
    elif how == "does not exist":
        folder.rename(folder.with_name("elsewhere-not-a-moment")).joinpath(checkpoint.MANIFEST).unlink()


@pytest.mark.parametrize(
    "how",
    [
        "half-written",
        "lacks network.pt",
        "does not match its checksum",
        "manifest of the checkpoint",
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


def test_a_payload_is_neither_unpickled_unverified_nor_able_to_run_code(tmp_path, capsys):
    folder = checkpoint.save(tmp_path, Moment(0, 1, 0), state(1))
    (folder / "network.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match="checksum"):
        checkpoint.load(folder)
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        checkpoint.load(checkpoint.save(tmp_path, Moment(0, 2, 0), {"network": Evil()}))
    assert capsys.readouterr().out == ""


def test_a_half_written_one_in_the_way_is_replaced_and_those_around_are_cleared(tmp_path):
    for epoch in (1, 2, 3):
        damage(checkpoint.save(tmp_path, Moment(0, epoch, 0), state(epoch)), "half-written")
    folder = checkpoint.save(tmp_path, Moment(0, 2, 0), state(20))
    assert checkpoint.load(folder).state["progress"]["seconds"] == 20
    assert list((tmp_path / checkpoint.FOLDER).iterdir()) == [folder]


def test_a_kill_between_any_two_writes_leaves_the_earlier_checkpoint(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, Moment(0, 1, 0), state(1))
    write = checkpoint.write_atomically
    for survived in range(3):  # two payloads and the manifest
        written = 0

        def until_killed(path, content, survived=survived):
            nonlocal written
            if written == survived:
                raise KeyboardInterrupt
            written += 1
            write(path, content)

        monkeypatch.setattr(checkpoint, "write_atomically", until_killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(tmp_path, Moment(0, 2, 0), state(2))
        latest = checkpoint.latest(tmp_path)
        assert latest is not None
        assert latest.moment.epoch == 1
