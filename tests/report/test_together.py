"""Runs compared: which epochs they share, and in what they are said to be unlike."""

import re
from dataclasses import replace

import numpy as np
import pytest
import small
from matplotlib.figure import Figure
from pages import text_of

from layerparallel import report, runs
from layerparallel.report import curves, drawing, story, tables, together, tradeoff, words
from layerparallel.runs import record

FIGURES = ("validation accuracy", "validation loss", "training accuracy", "training loss")
KEYS = ("validation_accuracy", "validation_loss", "train_accuracy", "train_loss")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Runs of unlike length and depth, evaluated in other epochs, and one in two phases."""
    root, found = tmp_path_factory.mktemp("unlike"), {}
    for name, options in {
        "short": {"epochs": 3, "evaluate_every": 1, "serial_epochs": 5},
        "long": {"epochs": 5, "evaluate_every": 2, "depth": 32, "batch": 26, "seed": 1},
        "phases": {"epochs": 3, "refine": (8,), "refine_epochs": 2, "serial_epochs": 1},
        "rare": {"epochs": 4, "evaluate_every": 4, "serial_epochs": 2},
    }.items():
        runs.train(small.recipe(**options).build(), record.new_folder(root / name))
        found[name] = root / name
    return found


@pytest.fixture(scope="module")
def told(folders):
    return {name: story.tell(folder) for name, folder in folders.items()}


def lines(folders, name):
    return record.history(record.read(folders[name]), "epoch")


# ---- epochs that all have ----------------------------------------------------------------------


def test_curves_have_one_axis_which_says_how_far_all_runs_go(told):
    both = [told["short"], told["long"]]
    over = [p for p in (*curves.learning(both), *curves.exactness(both)) if p.over == "epochs"]
    assert len(over) == 6
    for plot in over:
        axes = Figure().subplots()
        drawing.draw(axes, plot)
        assert axes.get_xlim() == (0, pytest.approx(1.03 * 5))
        assert plot.limit is not None
        assert set(plot.limit.x) == {3}
        assert plot.limit.label == "epoch 3: the last one of all runs"
        assert max(curve.x.max() for curve in plot.curves) == 5
        assert min(curve.x.min() for curve in plot.curves) >= 1
    alike = [told["long"], told["phases"]]
    assert all(plot.limit is None for plot in curves.learning(alike))
    assert all(plot.limit is None for plot in curves.learning([told["short"]]))


def test_decisions_of_the_adaptive_mode_stand_at_their_epochs(adaptive_run):
    told = story.tell(adaptive_run)
    plot = curves.adaptive([told])[0]
    steps = [0, 4, 8, 12]  # in seven mini batches an epoch; two epochs of the first phase, then four
    wanted = [n / 7 for n in steps] + [2 + n / 7 for n in range(0, 28, 4)]
    np.testing.assert_allclose(plot.curves[0].x, wanted)
    assert plot.over == "epochs"


def test_figures_are_those_after_as_many_epochs(folders, told):
    both = [told["short"], told["long"]]
    table = tables.alike(both)
    assert table is not None
    rows = {said: cells for said, *cells in table.rows}
    after = {"validation": 2, "training": 3}  # the longer one is evaluated after 2, 4 and 5
    for said, key in zip(FIGURES, KEYS, strict=True):
        epoch = after[said.partition(" ")[0]]
        figures = [lines(folders, name)[epoch - 1][key] for name in ("short", "long")]
        tell = words.percent if said.endswith("accuracy") else words.number
        assert rows[f"{said} after {epoch} epochs"] == [tell(figure) for figure in figures]
    seconds = [lines(folders, name)[2]["seconds"] for name in ("short", "long")]
    assert rows["seconds of training after 3 epochs"] == [words.number(each) for each in seconds]
    page = text_of(report.render([folders["short"], folders["long"]]))
    assert "After as many epochs" in page
    assert "At the end of each run" in page


def test_runs_of_one_length_are_compared_at_their_ends_alone(folders, told):
    alike = [told["long"], told["phases"]]
    assert tables.alike(alike) is None
    page = text_of(report.render([folders["long"], folders["phases"]]))
    assert "After as many epochs" not in page
    assert "At the end of each run" not in page


def test_figures_that_no_epoch_has_of_all_are_not_compared(told):
    long = replace(told["long"], epochs=[{**e, "validation_loss": None} for e in told["long"].epochs])
    long.epochs[3]["validation_loss"] = 1.0  # the shorter one has no fourth epoch
    table = tables.alike([told["short"], long])
    assert table is not None
    said = [row[0] for row in table.rows]
    assert not [each for each in said if each.startswith("validation loss")]
    assert "training loss after 3 epochs" in said


def test_an_epoch_of_a_shallower_network_is_named(told):
    table = tables.alike([told["short"], replace(told["phases"], epochs=told["phases"].epochs[:2])])
    assert table is not None
    rows = {said: cells for said, *cells in table.rows}
    assert rows["training loss after 2 epochs"][1].endswith(", of 8 layers")
    assert "layers" not in rows["training loss after 2 epochs"][0]


def test_the_twin_and_the_run_are_compared_after_as_many_epochs(folders, told):
    rows = dict(tables.results([told["rare"]]).rows)  # evaluated after 4 epochs, its twin has 2
    assert "serially trained twin" not in rows
    assert "this run after as many epochs" not in rows
    loss = lines(folders, "rare")[1]["train_loss"]
    assert rows["of this run after as many epochs"] == f"{words.number(loss)} after 2 epochs"
    rows = dict(tables.results([told["short"]]).rows)  # after each of 3, its twin has 5
    theirs, ours = told["short"].serial[2], told["short"].epochs[2]
    assert rows["serially trained twin"] == (
        f"{words.percent(theirs['validation_accuracy'])} after 3 epochs"
    )
    assert rows["this run after as many epochs"] == (
        f"{words.percent(ours['validation_accuracy'])} after 3 epochs"
    )
    rows = dict(tables.results([told["phases"]]).rows)
    assert rows["of this run after as many epochs"].endswith("of 8 layers after 1 epoch")


def test_a_twin_that_went_on_is_no_better_after_as_many_epochs(told):
    short = told["short"]
    assert short.summary is not None
    final = {"validation_accuracy": 0.5, "validation_accuracy_parallel": 0.5}

    def notes(*accuracies):
        twin = [
            {**line, "validation_accuracy": a} for line, a in zip(short.serial, accuracies, strict=True)
        ]
        said = story.notes(replace(short, serial=twin, summary={**short.summary, **final}))
        return [note for note in said if "twin" in note]

    assert notes(0.2, 0.3, 0.5, 0.6, 0.7) == []
    assert notes(0.2, 0.3, 0.6, 0.6, 0.7) == [
        "The serially trained twin is 10 points more accurate after as many epochs."
    ]


def test_speed_and_accuracy_are_those_after_as_many_epochs(plain_run, adaptive_run):
    both = [story.tell(run) for run in (plain_run, adaptive_run)]
    assert [len(each.epochs) for each in both] == [4, 6]
    (plot,) = tradeoff.compared(both)
    accuracies = [each.epochs[3]["validation_accuracy"] for each in both]
    assert [curve.y.tolist() for curve in plot.curves] == [[each] for each in accuracies]
    assert "Each after 4 epochs" in plot.note
    looks = [curve.look for curve in curves.learning(both)[0].curves if "twin" not in curve.label]
    assert [curve.look for curve in plot.curves] == looks


# ---- what is unlike ----------------------------------------------------------------------------


def test_runs_that_are_unlike_are_said_to_be(folders, told):
    both = [told["short"], told["long"]]
    assert (
        together.unlike(both)
        == "layers 16 / 32; epochs 3 / 5; learning rate scheduled over 3 epochs / 5 epochs; "
        "samples in a batch 20 / 26; seed 0 / 1"
    )
    page = report.render([folders["short"], folders["long"]])
    assert re.search(r'<p class="unlike">.*?layers 16 / 32; epochs 3 / 5', page)
    both = [told["phases"], told["short"]]
    assert together.unlike(both) == (
        "layers 8, then 16 / 16; epochs 2 + 3 / 3; learning rate scheduled over 2 + 3 epochs / 3 epochs"
    )
    begun = replace(told["short"], epochs=told["short"].epochs[:2])
    assert together.unlike([told["short"], begun]) == "epochs 3 / 2 of 3"


SMALLER = "data level-sets / a; training samples 130 / 7"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"recipe": "mnist"}, "recipe level-sets / mnist"),
        ({"data": {"name": "a", "training": 7, "validation": 40}}, SMALLER),
        ({"ranks": {"data": 2, "layer": 3}}, "processes 1 / 2 × 3"),
    ],
)
def test_data_and_processes_are_compared_too(told, line, said):
    other = replace(told["short"], start={**told["short"].start, **line})
    assert together.unlike([told["short"], other]) == said
    faster = replace(told["short"], summary={"machine": {**told["short"].machine, "threads": 8}})
    assert together.unlike([told["short"], faster]) == "threads 1 / 8"


def test_runs_that_are_alike_are_not_said_to_be_unlike(folders, told):
    assert together.unlike([told["short"], told["short"]]) == ""
    assert together.unlike([told["long"]]) == ""
    assert 'class="unlike"' not in report.render([folders["short"], folders["short"]])


def test_the_curves_of_phases_say_which_network_they_are_of(told):
    plots = {plot.title: plot.note for plot in curves.learning([told["phases"]])}
    assert plots["Training loss over epochs"] == "2 epochs of 8 layers, then 3 epochs of 16 layers."
    plots = {plot.title: plot.note for plot in curves.learning([told["phases"], told["long"]])}
    assert plots["Accuracy over epochs"].startswith("phases: 2 epochs of 8 layers")
