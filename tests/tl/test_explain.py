"""gg.tl.explain: the scores in varm, the tables in uns, and that both can be written."""

import anndata
import numpy as np
import pytest
import torch

import geneformer_grn as gg
from geneformer_grn.model.heads import Finetuned, HeadSpec, TaskHead


@pytest.fixture
def model(tiny_encoder):
    spec = HeadSpec("cell_type", "cell", "classification", ("A", "B"))
    return Finetuned(tiny_encoder, torch.nn.ModuleList([TaskHead(spec, 32)]).eval(), (spec,))


def test_explain_keeps_scores_and_tables_that_can_be_written(tiny_adata, model, tmp_path):
    adata = tiny_adata[:, ::-1].copy()  # genes in another order than the vocabulary's
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str)
    drivers = gg.tl.explain(adata, model, "cell_type", methods=("attention",), n_cells=4)
    table = adata.varm["geneformer_drivers"]
    assert list(table.columns) == ["A", "B"]
    by_hand = drivers[drivers["class"] == "B"].set_index("gene")["score"].reindex(adata.var_names)
    np.testing.assert_array_equal(table["B"], by_hand)
    adata.write_h5ad(tmp_path / "with.h5ad")
    again = anndata.read_h5ad(tmp_path / "with.h5ad")
    kept = again.uns["geneformer_grn"]["explain"]
    assert len(kept["drivers"]) == len(drivers)
    assert kept["record"]["parameters.label"] == "cell_type"
    assert set(kept["deletion"]["method"]) == {"attention", "differential_expression"}
    np.testing.assert_array_equal(again.varm["geneformer_drivers"]["A"], table["A"])


def test_no_model(tiny_adata):
    with pytest.raises(ValueError, match="name a fine-tuned model"):
        gg.tl.explain(tiny_adata.copy(), [], "cell_type")
