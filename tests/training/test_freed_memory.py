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
keep_freed_memory(int(sys.argv[1]), spare=sys.argv[2] == "spare")
def make():
    return [bytearray(b"1") * (4 << 20) for _ in range(4)]
make()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    make()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told so")
@pytest.mark.parametrize(
    ("parameters", "spare", "used_again"),
    [(9_999_999, "", True), (10_000_000, "", False), (1, "spare", False)],
)
def test_freed_memory_is_used_again_by_small_networks(parameters, spare, used_again):
    """In a process of its own, as it concerns the whole process."""
    words = (sys.executable, "-c", SCRIPT, str(parameters), spare)
    found = subprocess.run(words, capture_output=True, text=True)
    faults = int(found.stdout)
    assert (faults < 1000) == used_again, found.stderr
    assert used_again or faults > 20_000
