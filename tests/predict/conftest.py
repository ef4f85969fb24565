"""Measurements of the prediction are short in its tests."""

import pytest

from layerparallel.predict import baselines


@pytest.fixture(autouse=True, scope="module")
def short():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "SECONDS", 0.01)
        yield
