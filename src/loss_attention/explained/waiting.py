"""How torch's threads wait for one another while other processes and threads work too; no torch."""

from __future__ import annotations

import os

SPINS = "1000"
"""Of GNU's OpenMP: 10 microseconds, which is as long as most of a network's steps are apart."""


def wait_briefly() -> None:
    """Have torch's threads soon give up the core that they wait on; before torch is imported.

    By default they keep it for milliseconds, of which what draws and reads has a better use. What
    the environment says already stands.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Goes before it in GNU's, where passive threads sleep at once, and waking them takes too long.
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
