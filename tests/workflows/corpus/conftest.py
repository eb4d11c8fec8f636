"""Generated studies, and recipes over them, as one fixture ``make``."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from geneformer_grn.genes.table import load_gene_table
from geneformer_grn.genes.vocabulary import GeneVocabulary

N_GENES = 300


def gene_ids() -> np.ndarray:
    """300 genes, the last five of them mitochondrial."""
    vocabulary = GeneVocabulary.load("human")
    symbol_of = load_gene_table().symbol_of
    genes = list(vocabulary.ensembl_ids[vocabulary.n_special :])
    mitochondrial = [gene for gene in genes if symbol_of[gene].startswith("MT-")]
    others = [gene for gene in genes if not symbol_of[gene].startswith("MT-")]
    return np.array([*others[: N_GENES - 5], *mitochondrial[:5]], dtype=object)


def study(seed: int, n_cells: int, *, donors: tuple[str, ...] = ("unknown",), **obs: object) -> ad.AnnData:
    """Cells of one kind, drawn anew: as alike as different cells can be. Donors take turns."""
    rng = np.random.default_rng(seed)
    rates = np.random.default_rng(0).lognormal(0.0, 1.2, N_GENES)
    counts = rng.poisson(rates, (n_cells, N_GENES)).astype(np.float32)
    facts = {"donor": [donors[cell % len(donors)] for cell in range(n_cells)], "tissue": "lung", **obs}
    names = [f"barcode-{seed}-{cell}" for cell in range(n_cells)]
    return ad.AnnData(
        sparse.csr_matrix(counts), obs=pd.DataFrame(facts, index=names), var=pd.DataFrame(index=gene_ids()),
        uns={"license": "CC0", "source": f"generated, seed {seed}"},
    )  # fmt: skip


def write(folder: Path, **files: ad.AnnData) -> None:
    """Write files as ``folder/PLACE.h5ad``; a name ``train_a`` is the file ``train/a``."""
    for name, adata in files.items():
        path = folder / f"{name.replace('_', '/', 1)}.h5ad"
        path.parent.mkdir(parents=True, exist_ok=True)
        adata.write_h5ad(path)


def recipe(folder: Path, text: str = "", *, files: str = 'cells = ["train/*"]') -> Path:
    """Write a recipe over ``train/``, with what `text` adds."""
    path = folder / "recipe.toml"
    path.write_text(f"[files]\n{files}\n\n{text}\n")
    return path


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    return SimpleNamespace(gene_ids=gene_ids, study=study, write=write, recipe=recipe)
