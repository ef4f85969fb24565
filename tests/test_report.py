"""The pictures of a run."""

import pytest
import small
from PIL import Image

from layerparallel import record, report, trainer


def picture(path):
    with Image.open(path) as image:
        image.load()
        assert min(image.size) > 400
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 20  # something was drawn
        return image.size


@pytest.mark.parametrize("options", [{}, {"serial_epochs": 0}, {"solver": "serial"}])
def test_every_run_has_its_plots(tmp_path, options):
    run = small.recipe(**options).build()
    outcome = trainer.train(run, tmp_path)
    assert [path.name for path in report.plots(tmp_path)] == ["training.png", "residuals.png"]
    assert run.picture is not None
    run.picture(outcome.network, report.folder_of(tmp_path))
    names = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert names == ["regions.png", "residuals.png", "training.png"]
    for name in names:
        picture(tmp_path / "plots" / name)


def test_a_run_that_was_cut_short_has_plots_too(tmp_path):
    trainer.train(small.recipe().build(), tmp_path)
    lines = (tmp_path / record.RECORD).read_bytes().splitlines(keepends=True)
    (tmp_path / record.RECORD).write_bytes(b"".join(lines[:2]) + lines[2][:30])
    (tmp_path / record.SUMMARY).unlink()
    for path in report.plots(tmp_path):
        picture(path)
