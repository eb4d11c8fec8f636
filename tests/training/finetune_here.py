"""Started by tests in processes of their own: a fine-tuning run, with the number of processes asserted."""

import json
import pickle
import sys
from pathlib import Path

import torch

from geneformer_grn.model.encoder import load_encoder
from geneformer_grn.training.finetune import finetune
from geneformer_grn.training.finetune_processes import Processes
from geneformer_grn.training.finetune_settings import FinetuneSettings

if __name__ == "__main__":
    given, out, world = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    checkpoint, ranked, tasks, splits, settings = pickle.loads(given.read_bytes())  # noqa: S301 - our own
    encoder = load_encoder(checkpoint, device="cpu")
    settings = FinetuneSettings.model_validate(settings)
    result = finetune(encoder, ranked, tasks, splits, settings, out=out)
    processes = Processes.started(torch.device("cpu"))
    assert processes.world_size == world
    digests = [torch.cat([weight.flatten() for weight in result.model.heads.parameters()]).sum().item()]
    (out / f"rank{processes.rank}.json").write_text(json.dumps([result.history, digests]))
    torch.save(result.model.heads.state_dict(), out / f"heads{processes.rank}.pt")
