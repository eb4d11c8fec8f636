"""gg.tl.perturb: the effects, and what is kept in the AnnData."""

import anndata
import pandas as pd
import pytest

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


def test_pairs_and_moves_through_the_notebook(tiny_adata, tiny_encoder, tmp_path):
    adata = tiny_adata[:20].copy()
    effects = gg.tl.perturb(
        adata, ["GENE3", "GENE8"], tiny_encoder, kind="inhibit", quartiles=3, pairs=True, n_null=0
    )
    assert effects["readout"].tolist() == ["cell", "cell", "cell", "interaction"]
    kept = adata.uns["geneformer_grn"]["perturb"]["parameters"]
    assert (kept["kind"], kept["quartiles"], kept["pairs"]) == ("inhibit", 3, True)
    adata.write_h5ad(tmp_path / "with.h5ad")
    anchored = gg.tl.perturb(adata, "GENE3", tiny_encoder, kind="knockout", anchor="GENE8", n_null=0)
    assert anchored["readout"].tolist() == ["cell", "cell", "beyond_anchor"]
    assert anchored["gene"].iloc[-1] == "ENSG00000000008+ENSG00000000003"


def test_cells_are_kept_on_request_and_an_encoder_is_taken_as_it_is(tiny_adata, tiny_encoder):
    adata = tiny_adata[:20].copy()
    gg.tl.perturb(adata, ["GENE3"], tiny_encoder, n_null=0)
    assert "cell_shifts" not in adata.uns["geneformer_grn"]["perturb"]
    gg.tl.perturb(adata, ["GENE3"], tiny_encoder, n_null=0, keep_cells=True)
    cells = adata.uns["geneformer_grn"]["perturb"]["cell_shifts"]
    assert sorted(cells["cell_id"]) == sorted(adata.obs_names)
    with pytest.raises(ValueError, match="loaded in fp32 on cpu, asked for is bf16 on auto"):
        gg.tl.perturb(adata, ["GENE3"], tiny_encoder, precision="bf16")
