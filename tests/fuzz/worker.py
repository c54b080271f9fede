"""A process that runs cases and says a line of JSON about each: `worker.py KIND SEED FIRST LAST`.

Of its own, as a hostile file may take a process down, or hold it up in code that no signal reaches.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import traceback
from pathlib import Path


def main() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    talk = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed does not get between the lines
    with tempfile.TemporaryDirectory(prefix="fuzz-") as home:
        os.environ["HF_HOME"] = home
        import torch
        from fuzz.judging import no_network
        from fuzz.running import run

        torch.set_num_threads(1)
        no_network()
        folder = Path(home) / "case"
        for words in sys.stdin:
            kind, seed, first, last = json.loads(words)
            for number in range(first, last):
                talk.write(json.dumps({"begun": number}) + "\n")
                talk.flush()
                shutil.rmtree(folder, ignore_errors=True)
                try:
                    outcome, changes = run(kind, seed, number, folder)
                except Exception:  # a fault of these modules, not of what they try
                    talk.write(json.dumps({"fault": traceback.format_exc()}) + "\n")
                    talk.flush()
                    return
                talk.write(json.dumps(outcome.to_json() | {"changes": list(changes)}) + "\n")
                talk.flush()


if __name__ == "__main__":
    main()
