"""Recipes of parareal networks, one subnetwork on each rank: the runs of one process, gone on with."""

from pathlib import Path
from typing import Any

import pytest
import small
import stage_images
from small import Killed

from layerparallel import data, runs
from layerparallel.errors import InputError
from layerparallel.group import ALONE, Group
from layerparallel.group.team import Team
from layerparallel.recipes.parareal import MnistParareal
from layerparallel.runs import record
from layerparallel.training.backprop import Backprop

TINY: dict[str, Any] = {"depth": 14, "width": 2, "batch": 20, "epochs": 2, "dtype": "float64"}
TINY |= {"learning_rate": 0.02, "checkpoint_seconds": 0.0}


def do(
    group: Group,
    digits: data.Dataset,
    folder: str,
    options: dict[str, Any],
    until: int = 10**9,
    resumes: bool = False,
    team: Team | None = None,
) -> dict[str, Any] | None:
    """Trains a recipe, or goes on with it; up to a step where all ranks are killed."""
    step, left, load = Backprop.step, iter(range(until)), data.load

    def mortal(self, *args):
        if next(left, None) is None:
            raise Killed
        return step(self, *args)

    Backprop.step = mortal  # pyright: ignore[reportAttributeAccessIssue]
    data.load = lambda name, **more: digits
    try:
        run = MnistParareal(**{**TINY, **options}).build(team or Team(layer=group))
        return (runs.resume if resumes else runs.train)(run, Path(folder)).summary
    except Killed:
        return None
    finally:
        Backprop.step, data.load = step, load


def refused(group: Group, digits: data.Dataset, folder: str, options: dict[str, Any]) -> str:
    try:
        do(group, digits, folder, options)
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "options",
    [{}, {"holders": "last", "family": "vgg"}, {"method": "serial"}],
    ids=["every", "last", "layer by layer"],
)
def test_ranks_train_and_go_on_as_one_process_does(pool, tmp_path, options):
    one, several, broken = (record.new_folder(tmp_path / name) for name in ("one", "two", "broken"))
    digits = stage_images.digits()
    summary = do(ALONE, digits, str(one), options)
    assert summary is not None
    found = pool.run(2, do, digits, str(several), options)
    assert found == [found[0]] * 2
    assert found[0]["validation_loss"] == pytest.approx(summary["validation_loss"], rel=1e-8)
    assert small.losses(several) == pytest.approx(small.losses(one), rel=1e-8)
    records = [record.read(each) for each in (one, several)]
    networks = [record.history(each, "network")[0] for each in records]
    assert networks[0]["parameters"] == networks[1]["parameters"]
    mine, theirs = (record.history(each, "epoch")[-1].get("corrections", []) for each in records)
    assert mine == pytest.approx(theirs, rel=1e-6)
    assert pool.run(2, do, digits, str(broken), options, 4) == [None] * 2
    assert do(ALONE, digits, str(broken), options, resumes=True) is not None
    assert small.losses(broken) == pytest.approx(small.losses(one), rel=1e-8)


def test_more_or_fewer_ranks_than_subnetworks_are_refused(pool, tmp_path):
    digits = stage_images.digits()
    found = pool.run(2, refused, digits, str(tmp_path), {"subnetworks": 3})
    assert found == ["3 subnetworks, one on each rank, do not fit 2 layer ranks: use --layer-ranks 3, "
                     "or --subnetworks 2."] * 2  # fmt: skip
    found = pool.run(2, refused, digits, str(tmp_path), {"method": "warp"})
    assert all("--layer-ranks 1" in text for text in found)
