"""``gg.tl``: the model on AnnData; results are written in place, each in its scverse place."""

from geneformer_grn.tl.annotate import annotate
from geneformer_grn.tl.embed import embed
from geneformer_grn.tl.explain import explain
from geneformer_grn.tl.network import network
from geneformer_grn.tl.perturb import perturb
from geneformer_grn.tl.propagate import propagate
from geneformer_grn.tl.screen import screen

__all__ = ["annotate", "embed", "explain", "network", "perturb", "propagate", "screen"]
