"""Started by tests in processes of their own: a pretraining run, with the number of processes asserted."""

import argparse
import sys

from accelerate import PartialState

from geneformer_grn.training.config import read_config
from geneformer_grn.training.pretrain import run_pretraining

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("config")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--out")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--expect-world", type=int, default=1)
    arguments = parser.parse_args()
    run_pretraining(read_config(arguments.config, arguments.set), arguments.out, resume=arguments.resume)
    assert PartialState().num_processes == arguments.expect_world
    imported = sorted({"wandb", "tensorboard"} & set(sys.modules))
    sys.stdout.write(f"imported: {' '.join(imported)}\n")
