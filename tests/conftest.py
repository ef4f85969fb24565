"""What all tests share: one thread, hypothesis without deadlines, and how processes share the tests."""

import os
from collections import Counter
from pathlib import PurePath

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
os.environ.setdefault("LAYERPARALLEL_NATIVE", "0")  # tests/native has them on

settings.register_profile("local", deadline=None, max_examples=60)
settings.register_profile("ci", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


# ---- which tests are slow, and which process runs which ------------------------------------------

SLOW = ("ranks", "benchmarks")
"""Folders whose tests start processes of their own or measure: all of them are slow."""
TOGETHER = ("ranks", "report")
"""Folders whose tests share what takes long to set up: one process runs all of a folder."""
APART = ("test_faults.py", "test_page.py", "test_watch.py")
"""Files of these folders that share nothing."""


def group(path):
    """Tests of one group are run by the same process; a group is a file or a folder."""
    return path.parent.name if path.parent.name in TOGETHER and path.name not in APART else path.name


def pytest_collection_modifyitems(config, items):
    """Marks what is slow; the groups that take long come first where several processes share them."""
    for item in items:
        if item.path.parent.name in SLOW:
            item.add_marker(pytest.mark.slow)
    if hasattr(config, "workerinput"):
        sizes = Counter(group(item.path) for item in items)
        slow = {group(item.path) for item in items if item.get_closest_marker("slow")}

        def place(item):
            name = group(item.path)
            return name != "ranks", name not in slow, -sizes[name], name

        items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Groups in their order; marks `xdist_group` of pytest-xdist 3.8 have no effect under pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return group(PurePath(nodeid.partition("::")[0]))

    config.option.loadscopereorder = False
    return Groups(config, log)


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
