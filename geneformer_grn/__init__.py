"""geneformer-grn: from raw single-cell counts to cell embeddings, gene networks and perturbation effects.

``import geneformer_grn as gg`` gives the scverse faces ``gg.pp``, ``gg.tl``, ``gg.pl`` and ``gg.get`` over
AnnData, and ``gg.run``, the whole path from a file to a report. Importing the package loads neither torch,
transformers nor scanpy: the faces are imported when first used.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

__all__ = ["get", "pl", "pp", "run", "tl"]


def __getattr__(name: str) -> Any:
    if name in {"get", "pl", "pp", "tl"}:
        return import_module(f"geneformer_grn.{name}")
    if name == "run":
        return import_module("geneformer_grn.workflows.run").run
    raise AttributeError(f"module 'geneformer_grn' has no attribute {name!r}")
