"""What tensors leave is used again rather than given back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Four blocks of 4 MB alive together, freed and made again: 4096 pages each time.
SCRIPT = """
import resource, sys
from loss_attention.training.environment import keep_freed_memory
keep_freed_memory()
def make():
    return [bytearray(b"1") * (4 << 20) for _ in range(4)]
make()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    make()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told so")
def test_freed_memory_is_used_again():
    """In a process of its own, as it concerns the whole process."""
    found = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert int(found.stdout) < 1000, found.stderr  # 40,000 pages else
