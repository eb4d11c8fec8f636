"""gg.tl.embed and what gg.get reads back."""

import numpy as np
import pytest

import geneformer_grn as gg
from geneformer_grn.cells.counts import read_counts
from geneformer_grn.cells.ranking import rank_cells
from geneformer_grn.embedding import embed_cells, embed_genes


def test_results_are_in_their_places(tiny_adata, tiny_encoder, tmp_path):
    import anndata

    adata = tiny_adata.copy()
    gg.tl.embed(adata, tiny_encoder)
    ranked = rank_cells(read_counts(tiny_adata, tiny_encoder.vocabulary), tiny_encoder.vocabulary)
    np.testing.assert_allclose(
        adata.obsm["X_geneformer"], embed_cells(tiny_encoder, ranked), rtol=1e-4, atol=1e-5
    )
    genes = embed_genes(tiny_encoder, ranked)[tiny_encoder.vocabulary.n_special :]
    np.testing.assert_allclose(adata.varm["geneformer"], genes, rtol=1e-4, atol=1e-5)
    adata.write_h5ad(tmp_path / "out.h5ad")
    back = anndata.read_h5ad(tmp_path / "out.h5ad")
    provenance = gg.get.provenance(back)
    assert provenance["vocabulary_fingerprint"] == tiny_encoder.vocabulary.fingerprint
    assert provenance["model"] == "tiny"
    assert provenance["parameters"]["encoder_layer"] == -1
    assert provenance["cells"]["n_matched"] == 60
    assert gg.get.embedding(back).shape == (80, 32)
    assert list(gg.get.embedding(back).index) == list(tiny_adata.obs_names)
    assert len(gg.get.gene_embedding(back)) == int(np.isfinite(genes[:, 0]).sum())


def test_cells_and_genes_left_out_are_nan(tiny_adata, tiny_checkpoint):
    adata = tiny_adata[:10].copy()
    adata.obs["filter_pass"] = [1, 0] * 5
    names = adata.var_names.to_list()
    names[3] = "unknown-gene"
    adata.var_names = names
    gg.tl.embed(adata, tiny_checkpoint, device="cpu", pooling="cls", encoder_layer=0)
    missing = np.isnan(adata.obsm["X_geneformer"])
    assert missing[1::2].all()
    assert not missing[::2].any()
    assert np.isnan(adata.varm["geneformer"][3]).all()
    assert adata.uns["geneformer_grn"]["embed"]["cells"]["n_lost"] == 1


def test_nothing_there_is_said(tiny_adata):
    with pytest.raises(ValueError, match=r"run gg\.tl\.embed\(adata\) first"):
        gg.get.embedding(tiny_adata)
    with pytest.raises(ValueError, match="no result 'embed' in this AnnData"):
        gg.get.provenance(tiny_adata)
