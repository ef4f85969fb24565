"""Scripts of the project as modules, and what they print."""

import contextlib
import importlib.util
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks" / "common"))  # as `layerparallel bench` has it


def script(*path: str) -> ModuleType:
    """A file of the project that belongs to no package, as a module of its own."""
    file = ROOT.joinpath(*path)
    specification = importlib.util.spec_from_file_location("_".join((*path[:-1], file.stem)), file)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


def printed(main: Callable[[Sequence[str]], int], flags: Sequence[str]) -> str:
    """What a command writes to its standard output when it ends well."""
    written = io.StringIO()
    with contextlib.redirect_stdout(written), contextlib.redirect_stderr(io.StringIO()):
        assert main(flags) == 0
    return written.getvalue()
