"""What all tests share: one thread, and hypothesis without deadlines."""

import os

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)

settings.register_profile("local", deadline=None, max_examples=60)
settings.register_profile("ci", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


# ---- runs to be shown: trained once for all tests of reports -----------------------------------


@pytest.fixture(scope="session")
def plain_run(tmp_path_factory):
    """A run that has ended, with all that a recipe draws and a serial twin to its end."""
    import small

    name = "a-plain-run-whose-name-must-not-widen-the-page"
    return small.shown(
        tmp_path_factory.mktemp("runs") / name, levels=3, coarsening=(2, 2), serial_epochs=4
    )


@pytest.fixture(scope="session")
def adaptive_run(tmp_path_factory):
    """A run in the adaptive mode, in two phases."""
    import small

    return small.shown(
        tmp_path_factory.mktemp("runs") / "adaptive",
        adaptive=True,
        adaptive_every=4,
        adaptive_target=1e-6,
        refine=(8,),
        refine_epochs=2,
    )
