"""What is shown of runs in stages: their epochs of both kinds, violations, and runs compared."""

import html
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from layerparallel import data, report, runs
from layerparallel.recipes.cifar import Cifar10
from layerparallel.recipes.mnist_vae import MnistVae
from layerparallel.report import curves, drawing, stages, story, tables, tradeoff
from layerparallel.runs import record

TINY = {
    "serial_start": 1,
    "depth": 14,
    "width": 2,
    "batch": 20,
    "epochs": 5,
    "learning_rate": 0.02,
}


def images(name: str, channels: int, side: int) -> data.Dataset:
    """Forty training and twenty validation images of ten greys."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(60) % 10
    noise = torch.randint(40, (60, channels, side, side), generator=generator)
    x = (20 * classes.view(-1, 1, 1, 1) + noise).to(torch.uint8)
    return data.Dataset(name, x[:40], classes[:40], x[40:], classes[40:], tuple("0123456789"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Run folders by name, each trained once, when it is first asked for."""
    root, found = tmp_path_factory.mktemp("stages"), {}
    sets = {"cifar-10": images("cifar-10", 3, 32), "mnist": images("mnist", 1, 28)}
    recipes = {
        "3:2": Cifar10(**TINY, hybrid="3:2"),
        "3:2 again": Cifar10(**TINY, hybrid="3:2", seed=1),
        "2:3": Cifar10(**TINY, hybrid="2:3"),
        "three stages": Cifar10(
            **TINY, method="augmented", stages=3, hybrid="1:1", alternating=True, filter="pool:2+bf16"
        ),
        "serial": Cifar10(**TINY, method="serial"),
        "serial, plain": Cifar10(**TINY, method="serial", augment="none"),
        "serial, short": Cifar10(**{**TINY, "epochs": 2}, method="serial"),
        "vae": MnistVae(**{**TINY, "epochs": 4}, stages=2, serial_epochs=1),
    }

    def train(name: str) -> Path:
        if name not in found:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(data, "load", sets.__getitem__)
                runs.train(recipes[name].build(), record.new_folder(root / name))
            report.plots(root / name)
            found[name] = root / name
        return found[name]

    return train


def changed(folder: Path, copy: Path, edit) -> Path:
    """A copy of a run whose lines have been edited."""
    copy.mkdir(parents=True)
    lines = [json.dumps(edit(line)) for line in record.read(folder)]
    (copy / record.RECORD).write_text("\n".join(lines) + "\n")
    (copy / record.SUMMARY).write_bytes((folder / record.SUMMARY).read_bytes())
    return copy


def text_of(page: str) -> str:
    body = re.sub(r"<style>.*?</style>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", body)))


def epochs_of(folder: Path) -> list:
    return record.history(record.read(folder), "epoch")


# ---- one run -----------------------------------------------------------------------------------


def test_serial_epochs_are_shaded(trained):
    told, lines = story.tell(trained("3:2")), epochs_of(trained("3:2"))
    modes = [line["mode"] for line in lines]
    assert modes == ["serial", "parallel", "parallel", "parallel", "serial"]
    shaded = stages.bands([told], over_epochs=True)
    assert [(band.left, band.right) for band in shaded] == [(0.5, 1.5), (4.5, 5.5)]
    seconds = [line["seconds"] for line in lines]
    shaded = stages.bands([told], over_epochs=False)
    assert [(band.left, band.right) for band in shaded] == [(0, seconds[0]), (seconds[3], seconds[4])]
    assert all((band.low, band.high) == (0, 1) for band in shaded)


def test_of_several_runs_serial_epochs_are_rows_above_the_plot(trained):
    names = ("3:2", "serial", "three stages")
    found = stages.bands([story.tell(trained(name)) for name in names], over_epochs=True)
    rows = {band.colour: (band.low, band.high) for band in found}
    assert list(rows) == [drawing.colour(0), drawing.colour(2)]  # a serial run has no such epochs
    (low, high), (next_low, next_high) = rows.values()
    assert 1 < low < high < next_low < next_high
    many = stages.bands([story.tell(trained("3:2"))] * 40, over_epochs=True)
    assert max(band.high for band in many) <= 1 + stages.MOST + 1e-9


def test_violations_are_drawn_of_every_interface_with_gaps_in_serial_epochs(trained):
    folder = trained("three stages")
    plot = stages.violations([story.tell(folder)])
    assert plot is not None
    assert [curve.label for curve in plot.curves] == ["interface 1", "interface 2"]
    assert len({curve.style for curve in plot.curves}) == 2
    recorded = [line["violations"] for line in epochs_of(folder)]
    assert [bool(row) for row in recorded] == [False, True, False, True, False]
    for k, curve in enumerate(plot.curves):
        wanted = [row[k] if row else np.nan for row in recorded]
        np.testing.assert_array_equal(curve.y, wanted)
    paths = re.findall(r' d="([^"]*)"', drawing.panel(plot).svg)
    broken = [path for path in paths if path.count("M") == 2]
    assert len(broken) == 2
    assert not [path for path in broken if "L" in path]  # single points, no line across the gap


def test_the_table_says_how_stages_were_trained_and_how_far_they_came(trained):
    folder = trained("three stages")
    last = [line for line in epochs_of(folder) if line["mode"] == "parallel"][-1]
    found = stages.table([story.tell(folder)])
    assert found is not None
    rows = dict(found.rows)
    assert rows["method"] == "augmented Lagrangian, estimated step"
    assert rows["stages"] == "3"
    assert rows["processes"] == "one, its stages in turn"
    assert rows["kept by the filter"] == "pool:2+bf16"
    assert rows["hybrid, parallel : serial"] == "1:1, alternating"
    assert rows["parallel epochs"] == "2 of 5"
    assert rows["violation at the end, by interface"] == ", ".join(
        f"{v:.3g}" for v in last["violations"]
    )
    truth = rows["validation accuracy then, of the whole network"]
    assert truth == f"{100 * last['validation_accuracy']:.2f} %"
    assert rows["training loss then, of the last stage"] == f"{last['train_loss']:.3g}"


@pytest.mark.parametrize(("kept", "said"), [(2_500_000, "2.5 MB"), (12e9, "12 GB"), (0, "0 kB")])
def test_memory_that_is_on_record_is_told(trained, tmp_path, kept, said):
    folder = changed(
        trained("3:2"),
        tmp_path / "run",
        lambda line: {**line, "kept_bytes": kept} if line["kind"] == "epoch" else line,
    )
    found = stages.table([story.tell(folder)])
    assert found is not None
    assert dict(found.rows)["auxiliary variables kept"] == said


def test_regenerated_variables_and_cuts_are_told(trained, tmp_path):
    def edit(line):
        if line["kind"] == "start":
            line["options"] |= {"regenerate": True, "cut": [2, 4, 6]}
        return line

    found = stages.table([story.tell(changed(trained("3:2"), tmp_path / "run", edit))])
    assert found is not None
    rows = dict(found.rows)
    assert rows["kept by the filter"] == "nothing, made anew from the input"
    assert (rows["stages"], rows["cut before the pieces"]) == ("4", "2, 4, 6")


def test_runs_without_stages_have_neither_table_nor_bands(trained, plain_run):
    told = [story.tell(plain_run), story.tell(trained("serial"))]
    assert stages.table(told) is None
    assert stages.violations(told) is None
    assert stages.bands(told, over_epochs=True) == []


def test_the_page_of_a_run_in_stages(trained):
    text = text_of(report.render([trained("3:2")]))
    assert "Stages and auxiliary variables" in text
    assert "Violation of the constraints" in text
    assert "Shaded: serial epochs." in text
    assert "accuracy on the training samples is that of the last stage" in text
    for absent in ("propagated in parallel", "gap between the two", "The runs compared"):
        assert absent not in text
    assert "trained serially" in text_of(report.render([trained("serial")]))


def test_a_run_in_stages_has_a_picture_of_its_violations(trained):
    for name in ("3:2", "three stages", "vae"):
        plots = sorted(path.name for path in (trained(name) / "plots").iterdir())
        assert plots == ["training.png", "violations.png"]
        for plot in plots:
            with Image.open(trained(name) / "plots" / plot) as image:
                assert min(image.size) > 400
    assert sorted(path.name for path in (trained("serial") / "plots").iterdir())[0] == "residuals.png"


def test_a_run_without_accuracies_is_shown_by_its_losses(trained):
    folder = trained("vae")
    lines = epochs_of(folder)
    assert all("validation_accuracy" not in line for line in lines)
    told = story.tell(folder)
    titles = [plot.title for plot in curves.learning([told])]
    assert titles == [
        f"{what} loss over {over}"
        for what in ("Training", "Validation")
        for over in ("epochs", "seconds of training")
    ]
    drawn = curves.learning([told])[2].curves
    np.testing.assert_array_equal(drawn[0].y, [line["validation_loss"] for line in lines])
    assert len(drawn) == 2  # and of the serial slice
    rows = dict(tables.results([told]).rows)
    assert rows["validation loss"] == tables.number(lines[-1]["validation_loss"])
    assert "training accuracy" not in rows
    text = text_of(report.render([folder]))
    assert f"validation loss {lines[-1]['validation_loss']:.4g}" in text
    assert "%" not in text[: text.index("Results")]


# ---- runs compared -----------------------------------------------------------------------------


def plots_of(*folders: Path) -> dict:
    return {plot.title: plot for plot in tradeoff.compared([story.tell(each) for each in folders])}


SHARE, SPEED = "Accuracy and augmented epochs", "Accuracy and speed"


def score(folder: Path) -> float:
    summary = record.read_summary(folder)
    assert summary is not None
    return summary["validation_accuracy"]


def test_hybrids_are_drawn_over_the_share_of_augmented_epochs(trained):
    folders = [trained(name) for name in ("3:2", "3:2 again", "2:3", "serial", "serial, plain")]
    plot = plots_of(*folders)[SHARE]
    points = next(curve for curve in plot.curves if curve.label == "augmented, augment serial")
    np.testing.assert_allclose(points.x, [2 / 5, 3 / 5])
    first = [score(folder) for folder in folders[:2]]
    np.testing.assert_allclose(points.y, np.array([np.mean(first), score(folders[2])]))
    assert points.spread is not None
    np.testing.assert_allclose(points.spread, np.array([np.std(first), 0.0]), atol=1e-12)
    assert points.texts == ("3:2", "2:3")
    levels = {curve.label: curve.y for curve in plot.curves if curve.style.endswith("level")}
    np.testing.assert_array_equal(
        levels["serial training, all epochs augmented"], [score(folders[3])] * 2
    )
    np.testing.assert_array_equal(levels["serial training"], [score(folders[4])] * 2)
    assert "Means over 1 to 2 seeds" in plot.note


@pytest.mark.parametrize("names", [("3:2",), ("3:2", "3:2 again"), ("3:2", "serial"), ("serial", "vae")])
def test_no_share_is_drawn_where_hybrids_do_not_differ(trained, names):
    assert SHARE not in plots_of(*map(trained, names))


def test_stages_in_turn_have_no_speed_up(trained):
    assert SPEED not in plots_of(trained("3:2"), trained("2:3"))
    plot = plots_of(trained("3:2"), trained("serial"), trained("serial, short"))[SPEED]
    assert not [curve.label for curve in plot.curves if "penalty" in curve.label]


def on_ranks(folder: Path, copy: Path, **machine) -> Path:
    """A run as if it had been on two processes, each epoch in half the time."""

    def edit(line):
        if line["kind"] == "start":
            return {**line, "ranks": {"data": 1, "layer": 2}, "machine": {**line["machine"], **machine}}
        return {**line, "epoch_seconds": line["epoch_seconds"] / 2} if "epoch_seconds" in line else line

    return changed(folder, copy, edit)


def test_speed_is_measured_against_a_serial_run_with_the_same_options(trained, tmp_path):
    ranks, serial = on_ranks(trained("3:2"), tmp_path / "ranks"), trained("serial")
    plot = plots_of(ranks, serial)[SPEED]
    ours = next(curve for curve in plot.curves if curve.label == "augmented, measured")
    seconds = [
        np.mean([line["epoch_seconds"] for line in epochs_of(folder)]) for folder in (serial, ranks)
    ]
    np.testing.assert_allclose(ours.x, [seconds[0] / seconds[1]])
    assert ours.y == [score(ranks)]
    theirs = next(curve for curve in plot.curves if curve.label == "serial, measured")
    assert (theirs.x, theirs.y) == ([1], [score(serial)])
    early = next(curve for curve in plot.curves if curve.label == "serial training, stopped early")
    accuracies = [line["validation_accuracy"] for line in epochs_of(serial)]
    for x, y in zip(early.x, early.y, strict=True):
        assert y == accuracies[round(5 / x) - 1]
    elsewhere = on_ranks(trained("3:2"), tmp_path / "elsewhere", processor="another")
    assert SPEED not in plots_of(elsewhere, serial)
    assert SPEED not in plots_of(ranks, trained("serial, plain"))  # other batches


def test_shortened_serial_training_stands_at_the_ratio_of_the_epochs(trained):
    plot = plots_of(trained("serial"), trained("serial, short"))[SPEED]
    short = next(curve for curve in plot.curves if curve.label == "serial, by its epochs")
    assert short.x == [2.5]
    assert short.texts == ("2 epochs",)
    assert short.style != next(c for c in plot.curves if c.label == "serial, measured").style


def test_runs_of_one_seed_count_once(trained, tmp_path):
    again = on_ranks(trained("3:2"), tmp_path / "ranks")
    plot = plots_of(trained("3:2"), again, trained("2:3"))[SHARE]
    assert plot.note == "One run each."


def test_runs_on_other_samples_or_with_another_score_are_not_compared(trained, tmp_path):
    assert plots_of(trained("vae"), trained("serial"), trained("serial, short")) == {}
    fewer = changed(
        trained("2:3"),
        tmp_path / "run",
        lambda line: {**line, "data": {**line["data"], "training": 30}} if "data" in line else line,
    )
    assert plots_of(trained("3:2"), fewer) == {}


def test_runs_under_way_are_not_compared(trained, tmp_path):
    folder = changed(trained("2:3"), tmp_path / "run", lambda line: line)
    (folder / record.SUMMARY).unlink()
    assert plots_of(trained("3:2"), folder) == {}


def test_families_are_named_by_what_tells_them_apart(trained, plain_run, adaptive_run):
    plot = plots_of(trained("serial"), trained("serial, plain"))[SPEED]
    labels = {curve.label for curve in plot.curves} - {"", "serial training, stopped early"}
    assert labels == {"serial, augment serial, measured", "serial, augment none, measured"}
    plot = plots_of(plain_run, adaptive_run)[SPEED]  # of the recipe's own serial twins
    assert len(plot.curves) == 2
    assert all(curve.label.endswith(", …, measured") for curve in plot.curves)


def test_losses_are_compared_where_there_are_no_accuracies(trained):
    told = story.tell(trained("vae"))
    other = replace(
        told, start={**told.start, "options": {**told.options, "hybrid": "1:1", "augment": "serial"}}
    )
    other = replace(other, epochs=[{**line, "mode": "serial"} for line in told.epochs])
    both = replace(told, start={**told.start, "options": {**told.options, "augment": "serial"}})
    (plot,) = tradeoff.compared([both, other])
    assert plot.title == "Validation loss and augmented epochs"
    assert plot.scale == "linear"


def test_the_page_of_runs_compared(trained, tmp_path):
    names = ("3:2", "3:2 again", "2:3", "serial", "serial, short")
    page = report.render([trained(name) for name in names])
    text = text_of(page)
    for title in ("The runs compared", SHARE, SPEED):
        assert title in text
    assert "Coloured above: serial epochs of each run." in text
    ids = re.findall(r'\sid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


# ---- the published figures ---------------------------------------------------------------------


@pytest.fixture
def figures(monkeypatch):
    """The module of the benchmark, and its neighbours."""
    folder = Path(__file__).parents[2] / "benchmarks" / "sun_tables"
    monkeypatch.syspath_prepend(str(folder))
    names = ("figures", "plan", "run", "tables", "timing")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    import figures  # pyright: ignore[reportMissingImports]

    yield figures
    for name in names:
        sys.modules.pop(name, None)


def test_published_figures_are_drawn_from_the_runs_there_are(trained, figures, tmp_path, monkeypatch):
    import plan  # pyright: ignore[reportMissingImports]
    import run  # pyright: ignore[reportMissingImports]

    tiny = plan.Plan("cifar10", {**TINY, "family": "resnet"})
    monkeypatch.setitem(plan.PLANS, "tiny", {1: tiny, 3: tiny})
    found = run.Found(runs=tmp_path / "runs", times={}, speed={})
    assert figures.draw("tiny", found, tmp_path / "figures") == []
    assert not (tmp_path / "figures").exists()

    def put(name: str, **options) -> None:
        """A trained run as a row's: with the row's options and in its place."""
        row = next(
            row
            for _, row in plan.rows("tiny", 3)
            if all(getattr(row, key) == value for key, value in options.items())
        )
        wanted = tiny.of(row)

        def edit(line):
            return {**line, "options": {**line["options"], **wanted}} if "options" in line else line

        changed(trained(name), found.runs / plan.folder(tiny, row, 0), edit)

    put("3:2", method="penalty", down=True, ratio=plan.RATIOS[0])
    put("2:3", method="penalty", down=True, ratio=plan.RATIOS[2])
    put("serial", method="serial", images_augmented=True)
    drawn = figures.draw("tiny", found, tmp_path / "figures")
    assert [path.name for path in drawn] == ["figure_4_cifar-10.png", "figure_8_cifar-10.png"]
    for path in drawn:
        with Image.open(path) as image:
            assert min(image.size) > 400
    timed = replace(found, speed={})
    monkeypatch.setattr(type(timed), "speedup", lambda self, plan, row: run.Cell(1.4, "predicted"))
    drawn = figures.draw("tiny", timed, tmp_path / "figures")
    assert "figure_5_cifar-10.png" in [path.name for path in drawn]
