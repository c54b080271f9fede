"""Trains the tiny run in the folder it is given; a process of its own, so that it can be killed."""

import sys
from pathlib import Path

import torch
from training.tiny import tiny_recipe, tiny_splits

from loss_attention.training.job import RunOptions, continue_run, start_run
from loss_attention.training.run_folder import RunFolder

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, devices = Path(sys.argv[1]), int(sys.argv[2])
    splits = tiny_splits()
    recipe = tiny_recipe(epochs=12)
    if (folder / "run.json").exists():
        run = RunFolder.open(folder)
    else:
        options = RunOptions(devices=devices, accelerator="cpu", checkpoint_every_steps=2)
        run = start_run(folder, recipe, splits, options, overwrite=True)
    print("training", flush=True)
    print("finished" if continue_run(run, splits) else "interrupted", flush=True)
