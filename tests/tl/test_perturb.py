"""gg.tl.perturb: the effects, and what is kept in the AnnData."""

import anndata
import pandas as pd

import geneformer_grn as gg


def test_perturb_keeps_effects_and_parameters_that_can_be_written(tiny_adata, tiny_encoder, tmp_path):
    adata = tiny_adata.copy()
    effects = gg.tl.perturb(
        adata, ["GENE3", "GENE8"], tiny_encoder, groups="cell_type", n_null=4, null_cells=3,
        readouts=("cell", "genes"),
    )  # fmt: skip
    assert effects[["gene", "group"]].drop_duplicates().shape[0] == 4
    kept = adata.uns["geneformer_grn"]["perturb"]
    assert kept["model"] == "tiny"
    assert kept["parameters"]["n_null"] == 4
    assert (adata.X != tiny_adata.X).nnz == 0
    adata.write_h5ad(tmp_path / "with.h5ad")
    again = anndata.read_h5ad(tmp_path / "with.h5ad").uns["geneformer_grn"]["perturb"]
    pd.testing.assert_frame_equal(again["effects"], effects, check_dtype=False, check_index_type=False)
    assert len(again["gene_shifts"])
