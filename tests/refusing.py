"""What the command line says to wrong input."""

from collections.abc import Sequence
from typing import Any

from layerparallel.cli import main


def refused(arguments: Sequence[str], capsys: Any) -> str:
    """The one sentence that a wrong input gets, on standard error."""
    try:
        code: object = main(arguments)
    except SystemExit as left:
        code = left.code
    assert code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert "Traceback" not in output.err
    assert output.err.count("\n") == 1
    assert output.err.startswith("layerparallel: ")
    return output.err
