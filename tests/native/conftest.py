"""Tests of native loops have them on; all others have them off, for a compiler takes a second a loop."""

import pytest

from layerparallel.chains.native.compiler import CompilerError, compiler


@pytest.fixture(autouse=True)
def native(monkeypatch):
    try:
        compiler()
    except CompilerError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("LAYERPARALLEL_NATIVE", "1")
    monkeypatch.setenv("CFLAGS", "-O1")  # half of the compiler's time
