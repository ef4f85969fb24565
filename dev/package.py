"""Whether the wheel and the sdist in a folder are what they should be: `make package` builds them first.

    python dev/package.py dist constraints.txt

The wheel was built from the sdist; it has to be the one that the checkout gives. Then it is installed
in an empty environment and trains, outside of the checkout.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
IN_THE_WHEEL = {
    "layerparallel/py.typed",
    "layerparallel/report/page.html",
    "layerparallel/_benchmarks/gradient/run.py",
}
IN_THE_SDIST = {
    "pyproject.toml", "constraints.txt", "Makefile", "LICENSE", "CITATION.cff",
    "tests/conftest.py", "docs/index.md", "examples/ten_lines.py", "layerparallel/py.typed",
}  # fmt: skip
NOT_IN_THE_SDIST = (".ci/", ".github/", ".venv", "dist/", "findings/", "runs/", "site/")


def call(*command: str | Path, folder: Path | None = None) -> str:
    """Runs a command without what the caller's environment says of Python's modules; what it printed."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=kept, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def contents(wheel: Path) -> dict[str, bytes]:
    """Every file of a wheel."""
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist()}


def check_contents(wheel: Path, sdist: Path, scratch: Path, constraints: Path) -> None:
    """The wheel is that of the checkout; both have what they need, and no more."""
    call(
        *(sys.executable, "-m", "build", "--quiet", "--wheel", "--outdir", scratch),
        *("--dependency-constraints-txt", constraints, ROOT),
    )
    found = contents(wheel)
    assert found == contents(scratch / wheel.name), "the sdist builds another wheel than the checkout"
    assert found.keys() >= IN_THE_WHEEL, f"the wheel lacks {IN_THE_WHEEL - found.keys()}"
    roots = {name.partition("/")[0] for name in found}
    assert roots == {"layerparallel", "-".join(wheel.name.split("-")[:2]) + ".dist-info"}, roots
    with tarfile.open(sdist) as file:
        packed = {name.partition("/")[2] for name in file.getnames()}
    assert packed >= IN_THE_SDIST, f"the sdist lacks {IN_THE_SDIST - packed}"
    surplus = {name for name in packed if name.startswith(NOT_IN_THE_SDIST)}
    assert not surplus, f"the sdist has {surplus}"


def check_installed(wheel: Path, scratch: Path, constraints: Path) -> None:
    """What the readme says first works with the wheel and nothing else."""
    venv.create(scratch / "venv", with_pip=True)
    programs = scratch / "venv" / "bin"
    install = programs / "python", "-m", "pip", "install", "--quiet", "--constraint", constraints
    call(*install, "--upgrade", "pip")
    call(*install, wheel)
    place = call(
        programs / "python", "-c", "import layerparallel as lp; print(lp.__file__)", folder=scratch
    )
    assert Path(place.strip()).is_relative_to(scratch), place
    command, run = programs / "layerparallel", scratch / "run"
    assert "bench" in call(command, "--help", folder=scratch)
    assert "--json" in call(command, "bench", "gradient", "--help", folder=scratch)
    small = "--epochs", "2", "--serial-epochs", "1", "--depth", "64"
    call(command, "train", "level-sets", *small, "--run", run, folder=scratch)
    for made in ("summary.json", "report.html"):
        assert (run / made).stat().st_size > 0, made


def main(folder: Path, constraints: Path) -> None:
    """Both checks."""
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with tempfile.TemporaryDirectory(prefix="layerparallel-package-") as name:
        scratch = Path(name)
        check_contents(wheel, sdist, scratch, constraints)
        check_installed(wheel, scratch, constraints)
    print(f"{wheel.name} and {sdist.name} are in order.")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
