"""``gg.pp``: names and ranks in place."""

import anndata
import numpy as np
import pytest

import geneformer_grn as gg
from geneformer_grn.cells.counts import read_counts
from geneformer_grn.cells.ranking import rank_cells


@pytest.fixture
def adata(tiny_adata):
    return tiny_adata.copy()


def test_map_genes_names_what_is_known(adata, tiny_vocabulary, tmp_path):
    symbols = tiny_vocabulary.symbols[5:].tolist()
    symbols[1], symbols[2] = symbols[0], "UNKNOWN"
    adata.var_names = symbols
    gg.pp.map_genes(adata, tiny_vocabulary)
    assert adata.var["ensembl_id"].tolist()[:4] == [
        "ENSG00000000001", "ENSG00000000001", "", "ENSG00000000004",
    ]  # fmt: skip
    n_lost = (adata.var["ensembl_id"] == "").sum()
    assert adata.uns["geneformer_grn"]["map_genes"]["n_lost"] == n_lost
    # Two rows of one gene are meant: reading sums them, from the file too.
    adata.obs_names_make_unique()
    adata.var_names_make_unique()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    counts = read_counts(tmp_path / "cells.h5ad", tiny_vocabulary)
    assert counts.report["identifiers"] == "var['ensembl_id']"
    np.testing.assert_array_equal(counts.matrix.toarray()[:, 0], adata.X[:, :2].sum(axis=1).A1)


def test_map_genes_of_strangers(adata, tiny_vocabulary):
    adata.var_names = [f"X{i}" for i in range(60)]
    with pytest.raises(ValueError, match="0 of 60 genes match"):
        gg.pp.map_genes(adata, tiny_vocabulary)
    assert "ensembl_id" not in adata.var
    assert "geneformer_grn" not in adata.uns


def test_rank(adata, tiny_vocabulary, tmp_path):
    adata.uns["geneformer_grn"] = {"embed": {"model": "tiny"}}
    ranked = gg.pp.rank(adata, tiny_vocabulary)
    expected = rank_cells(read_counts(adata, tiny_vocabulary), tiny_vocabulary)
    np.testing.assert_array_equal(ranked.tokens, expected.tokens)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    facts = anndata.read_h5ad(tmp_path / "cells.h5ad").uns["geneformer_grn"]
    assert facts["embed"]["model"] == "tiny"
    assert facts["rank"]["vocabulary_fingerprint"] == tiny_vocabulary.fingerprint
    assert facts["rank"]["n_cells"] == 80


def test_a_checkpoint_brings_its_vocabulary(adata, tiny_checkpoint, tiny_vocabulary):
    ranked = gg.pp.rank(adata, tiny_checkpoint)
    np.testing.assert_array_equal(ranked.tokens, gg.pp.rank(adata, tiny_vocabulary).tokens)


def test_views_of_backed_files_are_ranked_and_not_written_to(tiny_h5ad, tiny_adata, tiny_vocabulary):
    backed = anndata.read_h5ad(tiny_h5ad, backed="r")
    try:
        view = backed[[3, 5, 8]]
        ranked = gg.pp.rank(view, tiny_vocabulary)
        whole = gg.pp.rank(tiny_adata.copy(), tiny_vocabulary)
        for place, row in enumerate((3, 5, 8)):
            np.testing.assert_array_equal(ranked.cell(place), whole.cell(row))
        with pytest.raises(ValueError, match="to_memory"):
            gg.pp.map_genes(view, tiny_vocabulary)
    finally:
        backed.file.close()
