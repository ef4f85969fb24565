"""TensorBoard logs say what the record says."""

import sys

import pytest
import small

from layerparallel import runs
from layerparallel.cli import main
from layerparallel.runs import board, record

pytest.importorskip("tensorboard", reason="TensorBoard is not installed: pip install layerparallel[dev]")


def logged(folder):
    """Every scalar of a run's logs: tag to {step: value}."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / board.FOLDER))
    events.Reload()
    return {
        tag: {event.step: event.value for event in events.Scalars(tag)}
        for tag in events.Tags()["scalars"]
    }


def hyperparameters(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import (
        HParamsPluginData,  # pyright: ignore[reportAttributeAccessIssue]  made by protobuf
    )

    events = EventAccumulator(str(folder / board.FOLDER))
    events.Reload()
    data = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = HParamsPluginData.FromString(data).session_start_info
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}


FLAGS = ["--refine", "8", "--refine-epochs", "2", "--adaptive", "--adaptive-every", "5"]


@pytest.mark.slow
def test_logs_hold_every_epoch_of_the_record_and_the_options(tmp_path):
    folder = tmp_path / "run"
    arguments = ["train", "level-sets", "--run", str(folder), *small.flags(small.recipe())]
    assert main([*arguments, *FLAGS, "--tensorboard"]) == 0
    found = logged(folder)
    lines = record.read(folder)
    epochs = record.history(lines, "epoch")
    assert len(epochs) == 6
    for name, tag in board.SCALARS.items():
        told = {step: line[name] for step, line in enumerate(epochs, 1) if line.get(name) is not None}
        assert found[tag] == pytest.approx(told, rel=1e-6)
    assert found["serial loss/training"][1] == pytest.approx(
        record.history(lines, "serial")[0]["train_loss"]
    )
    assert found["seconds/adjoint_fine"][6] == pytest.approx(epochs[-1]["split"]["adjoint_fine"])
    assert found["cycles/forward"].keys() <= set(range(1, 7))
    summary = record.read_summary(folder)
    assert summary is not None
    accuracy = summary["validation_accuracy"]
    assert found["result/validation_accuracy"] == pytest.approx({0: accuracy})
    options = hyperparameters(folder)
    assert (options["depth"], options["refine"], options["dtype"]) == (16, "[8]", "float64")


def test_a_resumed_run_takes_back_what_it_does_over_again(tmp_path):
    class Killed(BaseException):
        pass

    folder = record.new_folder(tmp_path / "run")
    logs = board.Board(folder)
    lines = []

    def listen(line):
        logs(line)
        lines.append(line)
        if line.get("epoch") == 3:  # the last checkpoint is that of the second epoch
            raise Killed

    with pytest.raises(Killed):
        runs.train(small.recipe().build(), folder, listener=listen)
    assert main(["resume", str(folder)]) == 0
    found = logged(folder)["loss/training"]
    assert found == pytest.approx(dict(enumerate(small.losses(folder), 1)), rel=1e-6)
    assert sorted(found) == [1, 2, 3, 4]


def test_without_tensorboard_the_remedy_is_named_and_no_folder_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    folder = tmp_path / "run"
    arguments = ["train", "level-sets", "--run", str(folder), *small.flags(small.recipe())]
    assert main([*arguments, "--tensorboard"]) == 2
    error = capsys.readouterr().err
    assert "pip install 'layerparallel[tensorboard]'" in error
    assert error.count("\n") == 1
    assert not folder.exists()
