"""gg.tl.screen: the genes, and what is kept in the AnnData."""

import anndata
import pandas as pd

import geneformer_grn as gg


def test_screen_keeps_genes_effects_and_recall_that_can_be_written(tiny_adata, tiny_encoder, tmp_path):
    adata = tiny_adata[:12].copy()
    genes = gg.tl.screen(adata, "all", tiny_encoder, kind="knockout", groups="cell_type")
    kept = adata.uns["geneformer_grn"]["screen"]
    assert kept["parameters"]["audit"] == 0.05
    assert kept["found"]["n_passes_exact_run"] > 0
    assert set(kept["effects"]["gene"]) <= set(genes["gene"])
    adata.write_h5ad(tmp_path / "with.h5ad")
    again = anndata.read_h5ad(tmp_path / "with.h5ad").uns["geneformer_grn"]["screen"]
    pd.testing.assert_frame_equal(again["genes"], genes, check_dtype=False, check_index_type=False)
