"""The command: its rows, one number for one configuration, its help and its refusals."""

import contextlib
import io
import json

import pytest
from refusing import refused
from rich.console import Console

import layerparallel as lp
from layerparallel import recipes
from layerparallel.cli import main
from layerparallel.errors import InputError
from layerparallel.predict import show
from layerparallel.predict.advice import advice
from layerparallel.predict.baselines import SERIAL, Split, Timed
from layerparallel.predict.parallel import Predicted
from layerparallel.predict.scaling import Row
from layerparallel.predict.task import from_recipe
from layerparallel.solvers.measure import GradientError

pytestmark = pytest.mark.slow

SMALL = ["--depth", "16", "--batch", "4", "--repeats", "1", "--few", "1", "--error", "0.5"]
SCALING = ["--ranks", "4,1,2", "--layers-per-rank", "4", "--network", "none"]


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """What the command prints as JSON, and its folder of plots."""
    folder, text = tmp_path_factory.mktemp("plots"), io.StringIO()
    call = ["predict", "level-sets", *SCALING, *SMALL, "--json", "--output", str(folder)]
    with contextlib.redirect_stdout(text):
        assert main(call) == 0
    return json.loads(text.getvalue()), folder


def test_the_command_predicts_a_recipe(predicted):
    found, folder = predicted
    assert found["task"] == {"name": "level-sets", "depth": 16, "batch": 4}
    assert [(row["ranks"], row["depth"]) for row in found["strong"]] == [(1, 16), (2, 16), (4, 16)]
    assert [(row["ranks"], row["depth"]) for row in found["weak"]] == [(1, 4), (2, 8), (4, 16)]
    for row in found["strong"] + found["weak"]:
        layer = row["layer"]
        assert row["speedup"] == pytest.approx(row["plain_seconds"] / layer["seconds"])
        ours = row["one_device"]
        assert row["speedup_over_one_device"] == pytest.approx(ours["seconds"] / layer["seconds"])
        assert (ours["data"], ours["layer"], ours["stages"]) == (1, 1, 1)
        assert ours["seconds"] <= row["serial_seconds"]
        assert ours["relative_error"] <= 0.5
        assert row["predicted"]["seconds"] == layer["seconds"]
        assert layer["relative_error"] <= 0.5
        assert set(row["others"]) == {"data", "1f1b", "zb-h1", "zb-h2"}
        assert all(each["relative_error"] == 0 for each in row["others"].values())
    many = found["strong"][-1]
    assert many["layer"]["solver"]["kind"] == "MGRIT"
    assert many["predicted"]["messages"] > 0
    assert all(s["data"] * s["layer"] * s["stages"] == 4 for s in found["splits"])
    known = configurations([found["strong"], found["splits"]])
    assert found["recommended"]["seconds"] <= min(each["seconds"] for each in known)
    assert "computing measured" in found["note"]
    for name in ("strong.png", "weak.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def configurations(found):
    """Every split with its time, wherever it stands."""
    if isinstance(found, list):
        return [each for part in found for each in configurations(part)]
    if not isinstance(found, dict):
        return []
    inside = configurations(list(found.values()))
    return [*inside, found] if "microbatches" in found else inside


def test_one_configuration_has_one_number(predicted):
    found, _ = predicted
    times = {}
    for each in configurations(found):
        key = {name: each[name] for name in each if name != "seconds"}
        times.setdefault(json.dumps(key), []).append(each["seconds"])
    assert all(len(set(seconds)) == 1 for seconds in times.values())
    strong, weak = found["strong"][-1], found["weak"][-1]
    assert strong == weak  # four ranks of four layers are four ranks of sixteen
    for mine in (strong["layer"], strong["others"]["data"]):
        assert mine in found["splits"]
    assert found["strong"][0]["layer"] == found["strong"][0]["one_device"] == strong["one_device"]
    for row in found["strong"]:  # a rank by itself is no other for being in another table
        assert row["plain_seconds"] == strong["plain_seconds"]
        assert row["serial_seconds"] == strong["serial_seconds"]


def table(printed, title):
    """The cells of a printed table, row by row."""
    lines = iter(printed.partition(title)[2].splitlines()[4:])
    found = []
    for line in lines:
        if not line.strip():
            return found
        found.append(line.replace("loses", "").split())
    raise AssertionError(f"the table of {title} has no end")


def test_the_printed_tables_have_one_number_for_one_configuration(capsys):
    assert main(["predict", "level-sets", *SCALING, *SMALL]) == 0
    printed = capsys.readouterr().out
    titles = ("Strong scaling: 16", "4 ranks as data", "Weak scaling: 4")
    strong, splits, weak = (table(printed, title) for title in titles)
    assert [row[0] for row in strong] == [row[0] for row in weak] == ["1", "2", "4"]
    assert strong[-1] == weak[-1]  # four ranks of four layers are four ranks of sixteen
    _, plain, ours, layer, over_plain, over_ours, *_ = strong[-1]
    assert {row[1] for row in strong} == {plain}
    assert {row[2] for row in strong} == {ours} == {strong[0][3]}
    assert [row[3] for row in splits if row[:3] == ["1", "4", "1"]] == [layer]
    for time, ratio in ((plain, over_plain), (ours, over_ours)):
        assert float(ratio) == pytest.approx(float(time) / float(layer), rel=0.02, abs=0.006)
    assert f"{plain} ms   1.00 x PyTorch  plain PyTorch" in printed
    assert printed.count("4 as 1 x 4 x 1: MGRIT") == 2
    assert "network none" in printed
    assert all(len(line) <= 100 for line in printed.splitlines()[2:])
    assert printed.rpartition("\n\n")[2].startswith("On one device ")


def test_without_weak_scaling_and_on_one_rank_there_is_one_table(capsys):
    assert main(["predict", "level-sets", "--ranks", "1", "--layers-per-rank", "0", *SMALL]) == 0
    printed = capsys.readouterr().out
    assert "Strong scaling: 16 layers" in printed
    assert "Weak scaling" not in printed
    assert "as data" not in printed.partition("Predicted:")[0].replace("ranks as data x", "", 1)
    assert "ethernet: 30 µs, 12.5 GB/s (assumed" in printed


# ---- what it advises ------------------------------------------------------------------------------

MULTIGRID = lp.MGRIT(2, 4)
INEXACT = GradientError(relative=0.03, cosine=1.0, worst_layer=0.1)


def row(ranks, layer, plain=10.0, serial=8.0, device=None):
    """A row of 64 layers, in seconds; `device` is multigrid on one core."""
    alone = Timed(Split(64, SERIAL), serial)
    if device is not None:
        alone = Timed(Split(64, MULTIGRID), device, INEXACT)
    found = Timed(Split(64, MULTIGRID, layer=ranks), layer, INEXACT) if ranks > 1 else alone
    predicted = Predicted(ranks, found.seconds, found.seconds, 0.0, 0, 0)
    others = dict.fromkeys(show.NAMES, Timed(Split(64, SERIAL, data=ranks), 99.0))
    return Row(ranks, 64, plain, serial, alone, found, predicted, others)


@pytest.mark.parametrize(
    ("rows", "splits", "said"),
    [
        (
            [row(1, 0, plain=5.0), row(2, 7.0), row(4, 4.0), row(8, 2.0)],
            [],
            "On one device plain PyTorch is fastest (5,000 ms); from 4 ranks on MGRIT wins, at 8 by "
            "2.50 times (error of that gradient 3e-02 at the initial weights).",
        ),
        (
            [row(1, 0), row(2, 4.0), row(4, 9.0)],
            [],
            "On one device Serial() is fastest (8,000 ms, 1.2 times plain PyTorch); on 2 ranks MGRIT "
            "wins by 2.00 times (error of that gradient 3e-02 at the initial weights).",
        ),
        (
            [row(1, 0, device=2.0), row(2, 4.0, device=2.0)],
            [],
            "On one device MGRIT L=2 m=4 (2,2) inject is fastest (2,000 ms, 5.0 times plain PyTorch); "
            "layer-parallel ranks lose, the best of them at 0.50 times its speed, and nothing else is "
            "quicker: stay on one device (error of that gradient 3e-02 at the initial weights).",
        ),
        (
            [row(1, 0), row(4, 4.0)],
            [Timed(Split(64, SERIAL, data=4), 2.0)],
            "On one device Serial() is fastest (8,000 ms, 1.2 times plain PyTorch); on 4 ranks MGRIT "
            "wins by 2.00 times; quickest of all, 4.00 times, are 4 data parallel ranks with Serial() "
            "on each.",
        ),
        (
            [row(1, 0), row(8, 9.0)],
            [Timed(Split(64, MULTIGRID, data=2, layer=2, stages=2, schedule="zb-h1"), 2.0, INEXACT)],
            "On one device Serial() is fastest (8,000 ms, 1.2 times plain PyTorch); layer-parallel "
            "ranks lose, the best of them at 0.89 times its speed; quickest of all, 4.00 times, are 8 "
            "ranks as 2 data x 2 layer x 2 pipeline (zb-h1, microbatches: 1) with MGRIT L=2 m=4 (2,2) "
            "inject (error of that gradient 3e-02 at the initial weights).",
        ),
        (
            [row(1, 0)],
            [],
            "On one device Serial() is fastest (8,000 ms, 1.2 times plain PyTorch); give --ranks of "
            "more than 1 to compare.",
        ),
    ],
)
def test_the_advice_is_what_the_rows_say(rows, splits, said):
    assert advice(rows, splits) == said


def test_a_row_that_loses_says_so():
    text = io.StringIO()
    rows = [row(2, 9.0), row(4, 4.0), row(8, 16.0)]
    Console(width=100, file=text).print(show.table("Rows", rows))
    printed = text.getvalue().splitlines()
    assert [line.count("loses") for line in printed[-4:-1]] == [1, 0, 2]  # to ours; to none; to both
    assert "1.11  loses 0.89" in printed[-4]
    assert "loses 0.62  loses 0.50" in printed[-2]


# ---- help, and what is refused --------------------------------------------------------------------


def test_the_help_names_the_recipes_that_can_be_predicted(capsys):
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    printed = capsys.readouterr().out
    assert "level-sets    generated" in printed
    assert "cifar10" not in printed
    assert all(len(line) <= 105 for line in printed.splitlines())


def test_the_help_of_a_recipe_has_no_options_that_play_no_part(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["predict", "level-sets", "--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for option in ("--ranks", "--network", "--few", "--depth", "--batch", "--width"):
        assert option in printed
    for option in ("--epochs", "--coarsening", "--solver", "--checkpoint-seconds"):
        assert option not in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "takes the name of a recipe first"),
        (["level-set"], "did you mean 'level-sets'?"),
        (["cifar10", "--help"], "'cifar10' trains stages or subnetworks"),
        (["level-sets", "--rank", "2"], "did you mean --ranks?"),
        (["level-sets", "--epochs", "2"], "--epochs plays no part in the time of one gradient: leave"),
        (["level-sets", "--no-adaptive"], "--no-adaptive plays no part"),
        (["level-sets", "--forward_cycles=2"], "--forward-cycles plays no part"),
        (["level-sets", "--ranks", "two"], "ranks = 'two' is no list of numbers"),
        (["level-sets", "--ranks", "1,2000"], "2000 ranks cannot be predicted: give 1 to 1024"),
        (["level-sets", "--network", "fast"], "There is no network 'fast'"),
        (["level-sets", "--error", "0"], "error = 0.0 is not above 0"),
        (["level-sets", "--few", "0"], "few = 0 is below 1"),
        (["level-sets", "--depth", "0"], "depth = 0 is below 1"),
    ],
)
def test_wrong_input_is_one_sentence(arguments, said, capsys):
    assert said in refused(["predict", *arguments], capsys)


def test_a_recipe_that_trains_by_stages_is_refused():
    with pytest.raises(InputError, match="trains stages or subnetworks"):
        from_recipe(recipes.get("cifar10")())
