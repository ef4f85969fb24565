"""The compiler, and the folder of what it has made."""

import os
import stat
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

import layerparallel as lp
from layerparallel.chains.native import compiler
from layerparallel.chains.native.compiler import CompilerError, compiled

SOURCE = "int answer(void) { return %d; }"


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "layerparallel" / "native"


def fake(tmp_path, monkeypatch, script):
    """A compiler of our own."""
    path = tmp_path / "fakecc"
    version = 'if [ "$1" = --version ]; then echo fake 1; exit 0; fi'
    path.write_text(f"#!/bin/sh\n{version}\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(compiler, "compiler", lambda: str(path))


def test_a_library_is_compiled_once_and_kept_for_its_user_alone(cache, monkeypatch):
    assert compiled(SOURCE % 7).answer() == 7
    (file,) = cache.glob("*.so")
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert compiled(SOURCE % 8).answer() == 8
    monkeypatch.setattr(compiler, "_compile", None)  # would be called
    assert compiled(SOURCE % 7).answer() == 7
    assert file in set(cache.glob("*.so"))


def test_a_folder_that_others_may_write_to_is_refused(cache):
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    with pytest.raises(CompilerError, match=r"others may write to .*chmod 700"):
        compiled(SOURCE % 1)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo no such instruction >&2; exit 3", "failed with 3: no such instruction"),
        ("exit 0", "wrote no file"),
        ('while [ "$1" != -o ]; do shift; done; echo broken > "$2"', "cannot be loaded"),
    ],
)
def test_a_compiler_that_fails_is_told_in_one_sentence(cache, tmp_path, monkeypatch, script, said):
    fake(tmp_path, monkeypatch, script)
    with pytest.raises(CompilerError, match=said):
        compiled(SOURCE % 2)
    assert not list(cache.glob("*.so"))


def test_a_compiler_that_hangs_is_ended(cache, tmp_path, monkeypatch):
    fake(tmp_path, monkeypatch, "sleep 60")
    monkeypatch.setattr(compiler, "SECONDS", 0.5)
    began = time.monotonic()
    with pytest.raises(CompilerError, match="did not end within"):
        compiled(SOURCE % 3)
    assert time.monotonic() - began < 20


def test_a_network_goes_the_other_way_and_says_why(cache, tmp_path, monkeypatch):
    fake(tmp_path, monkeypatch, "exit 3")
    net = lp.Network(None, lp.chain(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), 5, T=1.0), None)
    with pytest.warns(RuntimeWarning, match="all the same: .* failed with 3"):
        net(torch.randn(3, 4)).sum().backward()
    net(torch.randn(3, 4)).sum().backward()
    assert "failed with 3" in net.explain()


def test_many_processes_may_compile_the_same(cache):
    script = (
        "from layerparallel.chains.native.compiler import compiled; "
        f"assert compiled({SOURCE % 11!r}).answer() == 11"
    )
    runs = [subprocess.Popen([sys.executable, "-c", script], env=dict(os.environ)) for _ in range(3)]
    assert [run.wait(120) for run in runs] == [0, 0, 0]
    assert len(list(cache.iterdir())) == 1
