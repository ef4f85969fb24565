"""Freed memory that stays with the process."""

import os
import subprocess
import sys

import pytest

AGAIN = """
import ctypes
import resource
import torch

torch.set_num_threads(1)
for threshold in (-1, -3):  # of trimming and of mmap, as glibc has them; once set it does not raise them
    ctypes.CDLL(None).mallopt(threshold, 128 << 10)

def faults():
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [torch.ones(1 << 18) for _ in range(200)]
        found = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        del blocks
    return found

before = faults()
import layerparallel
print(before, faults())
"""


def faults(**environment: str) -> tuple[int, int]:
    """Pages faulted in where 200 MiB, in blocks of one, are taken a second time.

    Returns:
        Before this library is imported, and after.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", AGAIN]
    result = subprocess.run(
        command, env=kept | environment, capture_output=True, text=True, timeout=120, check=True
    )
    before, after = map(int, result.stdout.split())
    return before, after


@pytest.mark.slow
@pytest.mark.skipif(
    "CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", {}), reason="another C library"
)
def test_what_is_freed_is_kept():
    before, after = faults()
    assert before > 10_000
    assert after < 5_000
    before, after = faults(MALLOC_TRIM_THRESHOLD_="1000000")  # as the user says
    assert before > 10_000
    assert after > 10_000
