"""Run folders: refused where they exist, readable whatever happened to the run."""

import json

import pytest
from torch import nn

import layerparallel as lp
from layerparallel.runs import record
from layerparallel.runs.files import write_atomically
from layerparallel.runs.record import Record, RecordError


def test_a_new_folder_is_made_and_an_empty_one_taken(tmp_path):
    folder = tmp_path / "a" / "b"
    assert record.new_folder(folder) == folder
    assert record.new_folder(folder) == folder


def test_a_folder_that_holds_something_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "precious").write_text("x")
    with pytest.raises(RecordError, match="exists already: name another with --run") as caught:
        record.new_folder(tmp_path)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "precious").read_text() == "x"


def test_a_run_is_told_apart_from_other_folders_and_can_be_gone_on_with(tmp_path):
    with Record(tmp_path) as lines:
        lines.append("start")
    with pytest.raises(RecordError, match="go on with it with `layerparallel resume"):
        record.check_new(tmp_path)


def test_a_run_is_discarded_unless_something_was_trained(tmp_path):
    for lines in range(4):
        folder = record.new_folder(tmp_path / str(lines))
        with Record(folder) as written:
            for _ in range(lines):
                written.append("start")
        record.discard_unbegun(folder)
        assert folder.exists() == (lines > 1)


def test_a_file_in_place_of_the_folder_or_above_it_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(RecordError, match="is a file, not a run folder"):
        record.new_folder(file)
    with pytest.raises(RecordError, match="cannot be made"):
        record.new_folder(file / "below")


def test_lines_come_back_in_order_and_odd_values_become_plain(tmp_path):
    with Record(tmp_path) as lines:
        lines.append("start", options={"refine": (1, 2), "where": tmp_path})
        lines.append("epoch", train_loss=float("nan"), seconds=1.5)
    first, second = record.read(tmp_path)
    assert first["options"] == {"refine": [1, 2], "where": str(tmp_path)}
    assert (second["kind"], second["train_loss"], second["seconds"]) == ("epoch", None, 1.5)


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_last_line_is_passed_over_and_mended_by_the_next_writer(tmp_path, cut):
    with Record(tmp_path) as lines:
        lines.append("start", a=1)
        lines.append("epoch", b=2)
    path = tmp_path / record.RECORD
    path.write_bytes(path.read_bytes()[:-cut])
    assert [line["kind"] for line in record.read(tmp_path)] == ["start"]
    with Record(tmp_path) as lines:
        lines.append("resume", done=(0, 0))
    assert [line["kind"] for line in record.read(tmp_path)] == ["start", "resume"]


def test_every_truncation_of_a_record_keeps_the_whole_lines_or_is_refused(tmp_path):
    with Record(tmp_path) as lines:
        lines.append("start", a=1)
        lines.append("epoch", b=2)
    whole = (tmp_path / record.RECORD).read_bytes()
    kinds = set()
    for length in range(len(whole) + 1):
        (tmp_path / record.RECORD).write_bytes(whole[:length])
        if b"\n" in whole[:length]:
            kinds.add(tuple(line["kind"] for line in record.read(tmp_path)))
        else:
            with pytest.raises(RecordError, match="stopped before it began"):
                record.read(tmp_path)
    assert kinds == {("start",), ("start", "epoch")}


def test_damage_before_the_last_line_is_an_error_that_names_the_line(tmp_path):
    (tmp_path / record.RECORD).write_text('{"kind": "start"}\n{"kind": \n{"kind": "epoch"}\n')
    with pytest.raises(RecordError, match=r"Line 2 of .* is damaged"):
        record.read(tmp_path)


def test_a_folder_without_a_record_is_not_a_run(tmp_path):
    (tmp_path / ".launch").write_text("torchrun's")
    with pytest.raises(RecordError, match="stopped before it began: remove the folder, and train again"):
        record.read(tmp_path)
    (tmp_path / "precious").write_text("x")
    with pytest.raises(RecordError, match="is not a run folder"):
        record.read(tmp_path)


def test_two_writers_at_once_are_refused(tmp_path):
    with Record(tmp_path) as lines:
        lines.append("start")
        with pytest.raises(RecordError, match="Another process is working on the run"):
            Record(tmp_path)
    Record(tmp_path).close()


def test_history_leaves_out_what_a_resumed_run_did_again():
    def epoch(phase, number, value):
        return {"kind": "epoch", "phase": phase, "epoch": number, "value": value}

    records = [
        {"kind": "start"},
        epoch(0, 1, "kept"),
        epoch(0, 2, "kept"),
        epoch(1, 1, "lost"),
        {"kind": "resume", "done": [0, 2]},
        epoch(1, 1, "again"),
    ]
    values = [line["value"] for line in record.history(records, "epoch")]
    assert values == ["kept", "kept", "again"]


def test_history_of_lines_without_epochs_survives_a_resume():
    records = [{"kind": "cycles", "forward": [1.0]}, {"kind": "resume", "done": [0, 2]}]
    assert len(record.history(records, "cycles")) == 1


def test_the_summary_is_plain_json_and_its_absence_is_none(tmp_path):
    assert record.read_summary(tmp_path) is None
    record.write_summary(tmp_path, {"ratio": float("inf"), "epochs": 3})
    assert json.loads((tmp_path / record.SUMMARY).read_text()) == {"ratio": None, "epochs": 3}
    (tmp_path / record.SUMMARY).write_text("{")
    with pytest.raises(RecordError, match="is damaged"):
        record.read_summary(tmp_path)


def test_an_interrupted_atomic_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(record.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


def test_the_solver_of_every_chain_is_told_with_what_it_has_chosen():
    parts = [nn.Linear(4, 4), lp.chain(nn.Linear(4, 4), 6, integrator="rk4")]
    net = lp.Network(None, [lp.chain(lp.Dense(4), 64), *parts], None, lp.MGRIT())
    told = [chain["solver"] for chain in record.describe_network(net)["chains"]]
    assert [(solver["coarsening"], solver["coarse"], solver["samples"]) for solver in told] == [
        (8, "picard", 4),
        (2, "mean_residual", 4),
    ]
    net.solver = (lp.Split(lp.Serial(), lp.MGRIT()), lp.MGRIT(coarsening=3))
    told = [chain["solver"] for chain in record.describe_network(net)["chains"]]
    assert (told[0]["adjoint"]["coarsening"], told[1]["coarsening"]) == (8, 3)
