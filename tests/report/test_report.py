"""What a run is shown as: its pictures, and the page that is made of its record."""

import base64
import json
import re

import pytest
import small
from pages import changed, text_of
from PIL import Image
from refusing import refused

from layerparallel import report
from layerparallel.cli import main
from layerparallel.errors import InputError
from layerparallel.report import seconds, story, words
from layerparallel.runs import record


@pytest.fixture(scope="module")
def page(plain_run):
    """The page of the plain run."""
    return report.render([plain_run])


@pytest.fixture(scope="module")
def comparison(plain_run, adaptive_run):
    """The page of both runs."""
    return report.render([plain_run, adaptive_run])


def with_values(kind, **values):
    return lambda line: {**line, **values} if line["kind"] == kind else line


# ---- pictures ----------------------------------------------------------------------------------


def picture(path):
    with Image.open(path) as image:
        image.load()
        assert min(image.size) > 400
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 20  # something was drawn
        return image.size


@pytest.mark.slow
def test_every_run_has_its_plots(plain_run, adaptive_run):
    for run in (plain_run, adaptive_run):
        names = sorted(path.name for path in (run / "plots").iterdir())
        assert names == ["regions.png", "residuals.png", "training.png"]
        for name in names:
            picture(run / "plots" / name)


def test_a_run_that_was_cut_short_has_plots_too(plain_run, tmp_path):
    lines = (plain_run / record.RECORD).read_bytes().splitlines(keepends=True)
    (tmp_path / record.RECORD).write_bytes(b"".join(lines[:3]) + lines[3][:30])
    for path in report.plots(tmp_path):
        picture(path)


# ---- the page ----------------------------------------------------------------------------------


def test_the_page_holds_what_the_run_came_to(plain_run, page):
    text, summary = text_of(page), record.read_summary(plain_run)
    assert summary is not None
    for key in ("validation_accuracy", "validation_accuracy_parallel", "train_accuracy"):
        assert f"{100 * summary[key]:.2f} %" in text
    assert f"{summary['serial_ratio']:.2f}" in text
    error = record.history(record.read(plain_run), "epoch")[-1]["gradient_error"]
    assert f"error of the gradient, at the end {error:.3g}" in text
    for title in (
        "Training loss over epochs",
        "Training loss over time",
        "Accuracy over epochs",
        "Accuracy over time",
        "Error at the end of the solves",
        "Convergence factor",
        "Error of the gradient",
        "Residual per cycle, trained network",
        "Where the time went",
        "The multigrid cycle",
        "Pictures",
        "Machine and versions",
    ):
        assert title in text
    assert "What the adaptive mode chose" not in text
    assert summary["machine"]["processor"] in text
    assert "16 layers, MGRIT, 3 levels, m = 2, 2, cycles 1 + 1, picard" in text


def test_options_that_differ_from_the_defaults_come_first(plain_run, page):
    text = text_of(page)
    first = text[text.index("Options that are not the defaults") : text.index("All options")]
    folded = text[text.index("All options") :]
    start = record.read(plain_run)[0]
    for name in start["options"]:
        assert (f" {name} " in first) == (name in start["changed"])
        assert f" {name} " in folded


def test_the_recipes_pictures_stand_in_the_page_as_they_are(plain_run, page):
    found = re.findall(r'<img src="data:image/png;base64,([^"]*)"', page)
    drawn = (plain_run / "plots" / "regions.png").read_bytes()
    assert [base64.b64decode(each) for each in found] == [drawn]


def test_what_is_no_picture_is_passed_over(plain_run, tmp_path):
    copy = changed(plain_run, tmp_path / "copy", lambda line: line)
    (copy / "plots").mkdir()
    (copy / "plots" / "half.png").write_bytes(b"\x89PN")
    (copy / "plots" / "training.png").write_bytes((plain_run / "plots" / "training.png").read_bytes())
    assert "<img" not in report.render([copy])


def test_the_page_is_one_file_with_unlike_ids(comparison):
    page = comparison
    for reference in re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([^"\')\s>]*)', page):
        assert reference.startswith(("data:", "#")), reference
    ids = re.findall(r'\sid="([^"]*)"', page)
    assert len(ids) == len(set(ids)) > 20
    for used in re.findall(r'(?:href="#|url\(#)([^")]*)', page):
        assert used in ids


def test_several_runs_are_compared_side_by_side(plain_run, adaptive_run, comparison):
    text = text_of(comparison)
    assert "level-sets: 2 runs" in text
    head = f"{plain_run.name} adaptive validation accuracy, propagated serially"
    assert head in text  # of the table
    for run in (plain_run, adaptive_run):
        summary = record.read_summary(run)
        assert summary is not None
        assert f"{100 * summary['validation_accuracy']:.2f} %" in text
    first = text[text.index("not the same in all runs") : text.index("All options")]
    assert "refine none 8" in first
    assert "What the adaptive mode chose" in text
    assert "Cycles chosen" in text
    assert f"3 levels, m = 2, 2, cycles 1 + 1, picard (8 groups) ({plain_run.name})" in text


def test_runs_of_one_name_are_told_apart_by_their_paths(plain_run, tmp_path):
    other = tmp_path / plain_run.name
    other.mkdir()
    for name in (record.RECORD, record.SUMMARY):
        (other / name).write_bytes((plain_run / name).read_bytes())
    text = text_of(report.render([plain_run, other]))
    assert str(plain_run) in text
    assert str(other) in text


def test_names_are_escaped(plain_run, tmp_path):
    folder = tmp_path / "<b>&'"
    folder.mkdir()
    (folder / record.RECORD).write_bytes((plain_run / record.RECORD).read_bytes())
    page = report.render([folder])
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;" in page


def test_the_time_split_is_that_of_the_record(plain_run):
    found = seconds.time([story.tell(plain_run)])
    assert found is not None
    lines = record.read(plain_run)
    ours = [line["split"] for line in record.history(lines, "epoch")]
    for part, spent, _ in found.bars[0].shares:
        assert spent == pytest.approx(sum(split[part] for split in ours) / len(ours))
    assert sum(spent for _, spent, _ in found.bars[0].shares) == pytest.approx(found.bars[0].total)
    assert max(sum(percent for *_, percent in bar.shares) for bar in found.bars) == pytest.approx(100)
    assert found.table.head == ["time per epoch", "this run", "serial PyTorch"]
    rows = {said: cells for said, *cells in found.table.rows}
    beside = ["an epoch", "an evaluation, beside it", "a checkpoint, beside it"]
    assert list(rows) == [*found.parts.values(), *beside]
    assert found.parts["forward"] == "forward, outside chains"
    saved = [line["seconds"] for line in record.history(lines, "checkpoint")]
    assert rows["a checkpoint, beside it"] == [words.brief(sum(saved) / len(saved)), "–"]
    assert {len(cells) for cells in rows.values()} == {2}


# ---- runs that are unfinished, old or broken ---------------------------------------------------


def test_an_unfinished_run_is_reported_as_far_as_it_went(plain_run, tmp_path):
    lines = (plain_run / record.RECORD).read_bytes().splitlines(keepends=True)
    (tmp_path / record.RECORD).write_bytes(b"".join(lines[:4]) + lines[4][:30])
    text = text_of(report.render([tmp_path]))
    assert "The run has not ended: this is how it stands after 2 of 4 epochs." in text
    accuracy = json.loads(lines[3])["validation_accuracy"]
    assert f"{100 * accuracy:.2f} %" in text
    assert "2 of 4" in text


def test_a_run_of_a_former_version_is_reported_by_what_it_has(plain_run, tmp_path):
    old = {"changed", "data", "split", "gradient_error", "gradient_cosine", "evaluation_seconds"}
    old |= {"forward_factor", "adjoint_factor"}

    def former(line):
        if line["kind"] == "network":
            return None
        return {key: value for key, value in line.items() if key not in old}

    text = text_of(report.render([changed(plain_run, tmp_path / "copy", former)]))
    assert "Training loss over epochs" in text
    for gone in ("Where the time went", "The multigrid cycle", "Error of the gradient"):
        assert gone not in text


def test_every_kind_of_chain_is_drawn_once(plain_run, tmp_path):
    def several(line):
        if line["kind"] != "network":
            return line
        chain = line["chains"][0]
        serial = {"steps": 5, "solver": {"kind": "Serial", "memory": "store"}}
        return {**line, "chains": [chain, {**chain, "steps": 12}, serial, chain]}

    text = text_of(report.render([changed(plain_run, tmp_path / "copy", several)]))
    assert "layers 16 + 12 + 5 + 16" in text
    assert text.count("All 16 layers, every step.") == 2  # forward and adjoint
    assert text.count("All 12 layers, every step.") == 2
    assert "solver MGRIT, 3 levels, m = 2, 2, cycles 1 + 1, picard (8 groups); serial" in text


def test_a_solver_of_another_version_is_not_drawn(plain_run, tmp_path):
    later = with_values("network", chains=[{"steps": 16, "solver": {"kind": "Spectral"}}])
    assert "The multigrid cycle" not in report.render([changed(plain_run, tmp_path / "copy", later)])


def test_a_serial_run_without_a_twin_has_plots_but_neither_cycle_nor_residuals(tmp_path):
    run = small.shown(tmp_path / "run", solver="serial", serial_epochs=0, epochs=2)
    assert sorted(path.name for path in (run / "plots").iterdir()) == ["regions.png", "training.png"]
    picture(run / "plots" / "regions.png")
    text = text_of(report.render([run]))
    assert "solver serial" in text
    assert "The multigrid cycle" not in text
    assert "How exact the solves were" not in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "stopped before it began: remove the folder"),
        (b"", "stopped before it began: remove the folder"),
        (b'{"kind": "epoch"}\n', "does not begin with a start line"),
        (b'{"kind": "start", "recipe": "level-sets"}\n', "has not ended its first epoch"),
        (b'{"kind": "start"}\n5\n', "Line 2 of .* is damaged"),
        (b'{"kind": "start"}\n["kind"]\n', "Line 2 of .* is damaged"),
        (b"\x00\xff\n", "Line 1 of .* is damaged"),
    ],
)
def test_a_folder_without_a_run_gets_one_sentence(tmp_path, capsys, content, said):
    if content is not None:
        (tmp_path / record.RECORD).write_bytes(content)
    assert main(["report", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert re.search(said, error)
    assert error.count("\n") == 1
    assert not (tmp_path / report.PAGE).exists()


def test_a_damaged_summary_gets_one_sentence(plain_run, tmp_path, capsys):
    copy = changed(plain_run, tmp_path / "copy", lambda line: line)
    for content in ("{", "[1]"):
        (copy / record.SUMMARY).write_text(content)
        assert main(["report", str(copy)]) == 2
        assert "is damaged" in capsys.readouterr().err


# ---- what to read from it ----------------------------------------------------------------------


def notes_of(folder, tmp_path, edit, **summary):
    copy = changed(folder, tmp_path / folder.name, edit)
    written = record.read_summary(copy)
    assert written is not None
    (copy / record.SUMMARY).write_text(json.dumps({**written, **summary}))
    return story.notes(story.tell(copy))


def test_nothing_is_said_where_there_is_nothing_to_warn_of(plain_run, tmp_path):
    accuracies = {"validation_accuracy": 0.5, "validation_accuracy_parallel": 0.502}
    figures = {"forward_factor": 0.1, "adjoint_factor": 0.1, "gradient_error": 0.01}
    figures |= {"forward_error": 1e-3, "adjoint_error": 1e-3, "validation_accuracy": 0.5}

    def tame(line):
        return {**line, **figures} if "train_loss" in line else line

    assert notes_of(plain_run, tmp_path, tame, serial_ratio=1.5, **accuracies) == []


@pytest.mark.parametrize(
    ("kind", "values", "summary", "said"),
    [
        ("epoch", {"fallbacks": 1}, {}, "4 solves misbehaved and were done serially instead, in 4 of 4"),
        (
            "",
            {},
            {"validation_accuracy": 0.9, "validation_accuracy_parallel": 0.95},
            "5 points better than serially (one of the 40 validation samples is 2.5 points)",
        ),
        ("epoch", {"gradient_error": 0.4, "gradient_cosine": 0.9}, {}, "40% off the exact one"),
        ("epoch", {"gradient_error": None}, {}, "no layer-parallel gradient could be had"),
        ("epoch", {"adjoint_factor": 1.5}, {}, "adjoint iteration diverges"),
        (
            "network",
            {"chains": [{"steps": 16, "solver": {"kind": "MGRIT", "coarsening": 9}}]},
            {},
            "A coarsening of 9 makes one interval of 16 layers",
        ),
        ("", {}, {"serial_ratio": 0.5}, "2.0 times as long as with serial PyTorch"),
    ],
)
def test_what_a_reader_should_know_is_said(plain_run, tmp_path, kind, values, summary, said):
    found = notes_of(plain_run, tmp_path, with_values(kind, **values), **summary)
    assert [note for note in found if said in note], found


def test_growing_errors_are_said(plain_run, tmp_path):
    def growing(line):
        return {**line, "forward_error": 1e-3 * 2 ** line["epoch"]} if "epoch" in line else line

    found = notes_of(plain_run, tmp_path, growing)
    assert [
        n for n in found if "Errors of the solves grew in training, the forward one from 2.0e-03 to" in n
    ]


def test_the_twin_is_compared_after_as_many_epochs_alone(plain_run, adaptive_run, tmp_path):
    def twin(line):
        return {**line, "validation_accuracy": 1.0} if line["kind"] == "serial" else line

    one_of_six = notes_of(adaptive_run, tmp_path, twin)
    assert not [note for note in one_of_six if "twin" in note]
    found = notes_of(plain_run, tmp_path, twin, validation_accuracy=0.9)
    assert [note for note in found if "twin is 10 points more accurate after as many epochs" in note]


def test_going_serial_is_said(adaptive_run, tmp_path):
    found = notes_of(adaptive_run, tmp_path, with_values("decision", action="serial"))
    assert [note for note in found if "gave up multigrid" in note]


# ---- the command -------------------------------------------------------------------------------


def test_the_command_writes_one_page_for_one_run_or_for_several(
    plain_run, adaptive_run, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(plain_run)]) == 0
    assert capsys.readouterr().out == f"{plain_run / report.PAGE}\n"
    assert plain_run.name in text_of((plain_run / report.PAGE).read_text())
    assert main(["report", str(plain_run), str(adaptive_run)]) == 0
    assert "2 runs" in (tmp_path / "report.html").read_text()
    assert main(["report", str(plain_run), "--output", "mine.html"]) == 0
    assert (tmp_path / "mine.html").exists()


def test_the_command_opens_the_page_where_there_is_a_browser(plain_run, tmp_path, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or len(opened) == 1)
    output = tmp_path / "page.html"
    assert main(["report", str(plain_run), "--output", str(output), "--open"]) == 0
    assert opened == [output.as_uri()]
    assert main(["report", str(plain_run), "--output", str(output), "--open"]) == 2
    assert "No browser was found" in capsys.readouterr().err


@pytest.mark.parametrize("output", ["no/such.html", "summary.json", "."])
def test_a_place_where_no_page_can_be_is_one_sentence(plain_run, tmp_path, monkeypatch, capsys, output):
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(plain_run), "--output", output]) == 2
    error = capsys.readouterr().err
    assert "--output" in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_without_a_run_the_command_says_what_it_takes(capsys):
    assert "`report` takes a run folder" in refused(["report"], capsys)


def test_rendering_names_the_folder_that_is_none(plain_run, tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        report.render([plain_run, tmp_path / "nowhere"])
