"""Ctrl-C while the command line is imported, really sent: exit code 130, and nothing is said."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

MAIN = "import sys\nfrom layerparallel.cli import main\nsys.exit(main())\n"


def imports_torch(process: subprocess.Popen) -> bool:
    """Whether it has begun to."""
    return "libtorch" in Path(f"/proc/{process.pid}/maps").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
@pytest.mark.parametrize("how", ["module", "script"])
def test_ctrl_c_while_torch_is_imported_ends_quietly(tmp_path, how):
    script = tmp_path / "layerparallel"
    script.write_text(MAIN)
    called = ["-m", "layerparallel"] if how == "module" else [str(script)]
    process = subprocess.Popen(
        [sys.executable, *called, "list"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while not imports_torch(process):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "")


def test_another_program_keeps_its_handler():
    program = (
        "import signal, layerparallel\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_command_may_catch_ctrl_c():
    program = (
        "import signal, sys\n"
        "sys.argv = ['layerparallel', '--version']\n"
        "import layerparallel.cli\n"
        "assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler\n"
        "layerparallel.cli.main()\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
