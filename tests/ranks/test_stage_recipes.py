"""Recipes in stages, one stage on each rank: bit by bit the runs of one process, resumed on either."""

from pathlib import Path
from typing import Any

import pytest
import small
import stage_images
from small import Killed

from layerparallel import data, runs
from layerparallel.group import ALONE, Group
from layerparallel.group.team import Team
from layerparallel.runs import record
from layerparallel.training.auxiliary import AuxiliaryMethod

OPTIONS: dict[str, Any] = {"checkpoint_seconds": 0.0}


def do(
    group: Group,
    digits: data.Dataset,
    kind: str,
    folder: str,
    options: dict[str, Any],
    until: int = 10**9,
    resumes: bool = False,
) -> dict[str, Any] | None:
    """Trains a recipe, or goes on with it; up to a step where all ranks are killed."""
    step, left, load = AuxiliaryMethod.step, iter(range(until)), data.load

    def mortal(self, *args, **more):
        if next(left, None) is None:
            raise Killed
        return step(self, *args, **more)

    AuxiliaryMethod.step = mortal
    data.load = lambda name, **more: digits
    try:
        run = getattr(stage_images, kind)(**OPTIONS, **options).build(Team(layer=group))
        return (runs.resume if resumes else runs.train)(run, Path(folder)).summary
    except Killed:
        return None
    finally:
        AuxiliaryMethod.step, data.load = step, load


def parts_of(folder: Path) -> dict[str, Any]:
    """What a run ended with, without what belongs to a rank."""
    state = small.final_state(folder)
    return {name: each for name, each in state.items() if name != "rng"}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("vae", {"method": "augmented"}),
        ("vae", {"method": "penalty", "regenerate": True}),
        ("classifier", {"method": "penalty", "augment": "both", "alternating": True}),
    ],
)
def test_ranks_train_and_go_on_as_one_process_does(pool, tmp_path, kind, options):
    one, several, broken = (record.new_folder(tmp_path / name) for name in ("one", "three", "broken"))
    digits = stage_images.digits()  # scikit-learn's, which takes ranks some time to import
    summary = do(ALONE, digits, kind, str(one), options)
    assert summary is not None
    found = pool.run(3, do, digits, kind, str(several), options)
    assert found == [found[0]] * 3
    for name in ("validation_loss", "validation_loss_parallel", "epochs", "train_loss"):
        assert found[0][name] == summary[name]
    assert small.same(parts_of(one), parts_of(several))
    assert small.losses(one) == small.losses(several)
    networks = [record.history(record.read(each), "network")[0] for each in (one, several)]
    assert networks[0]["parameters"] == networks[1]["parameters"]
    assert pool.run(3, do, digits, kind, str(broken), options, 4) == [None] * 3
    assert do(ALONE, digits, kind, str(broken), options, resumes=True) is not None
    assert small.losses(broken) == pytest.approx(small.losses(one), rel=1e-9)
