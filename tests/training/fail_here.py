"""Started by tests under torchrun: the verb, where one of two processes fails at a chosen place."""

import errno
import os
import sys
import time

import torch

from geneformer_grn.cli import main
from geneformer_grn.training import checkpoints, loop


def full_disk(*_given, **_options):
    raise OSError(errno.ENOSPC, "No space left on device")


def vanished(*_given, **_options):
    raise FileNotFoundError(errno.ENOENT, "corpus train: part-0.arrow is gone")


def stuck(*_given, **_options):
    time.sleep(600)  # as a call that nobody joins, and which does not notice


def not_a_number(model, *_given, **_options):
    return sum(weight.sum() for weight in model.parameters()) * torch.nan, None


if __name__ == "__main__":
    place, rank = os.environ["FAIL_AT"], os.environ["RANK"]
    if place == "checkpoint" and rank == "0":
        checkpoints.torch.save = full_disk
    if place in {"step", "stuck"} and rank == "1":
        loop.seed_dropout = vanished
    if place == "stuck" and rank == "0":
        loop.seed_dropout = stuck
    if place == "loss":
        loop.masked_language_loss = not_a_number
    main(["pretrain", *sys.argv[1:]])
