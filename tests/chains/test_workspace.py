"""Freed memory that stays with the process."""

import os
import subprocess
import sys

import pytest

AGAIN = """
import resource
import sys
import torch
if sys.argv[1] == "with": import layerparallel
torch.set_num_threads(1)
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(1 << 18) for _ in range(200)]
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    del blocks
print(faults)
"""


def faults(how: str, **environment: str) -> int:
    """Pages faulted in where 200 MiB, in blocks of one, are taken a second time."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", AGAIN, how]
    result = subprocess.run(
        command, env=kept | environment, capture_output=True, text=True, timeout=120, check=True
    )
    return int(result.stdout)


@pytest.mark.skipif(
    "CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", {}), reason="another C library"
)
def test_what_is_freed_is_kept():
    assert faults("with") < 1_000
    assert faults("without") > 10_000
    assert faults("with", MALLOC_TRIM_THRESHOLD_="1000000") > 10_000  # as the user says
