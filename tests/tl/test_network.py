"""``gg.tl.network`` and ``gg.tl.propagate`` on an AnnData: where results go, and that they can be written."""

import anndata
import pytest

from geneformer_grn.tl.network import network
from geneformer_grn.tl.propagate import propagate


def test_network_then_propagate_then_write(tiny_adata, tiny_checkpoint, tmp_path):
    adata = tiny_adata.copy()
    adata.uns["geneformer_grn"] = {"embed": {"model": "x"}}
    network(adata, tiny_checkpoint, groups="cell_type", top=60)
    edges = adata.uns["geneformer_edges"]
    assert set(edges["group"]) == {"A", "B"}
    assert set(adata.uns["geneformer_grn"]) == {"embed", "network"}
    source = edges["source"].value_counts().index[0]
    propagate(adata, [source], model=tiny_checkpoint)
    effects = adata.uns["geneformer_propagated"]
    assert set(effects["source"]) == {source}
    assert set(effects["group"]) <= {"A", "B"}
    propagate(adata, [source], model=tiny_checkpoint, method="ordered", regulators=[source], seed=2)
    assert adata.uns["geneformer_propagated"].iloc[0]["effect"] < 0
    assert adata.uns["geneformer_signed_edges"].empty
    adata.write_h5ad(tmp_path / "out.h5ad")
    back = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert len(back.uns["geneformer_edges"]) == len(edges)
    assert back.uns["geneformer_grn"]["network"]["groups"] == "cell_type"


def test_group_names_with_a_slash_survive_writing(tiny_adata, tiny_checkpoint, tmp_path):
    adata = tiny_adata.copy()
    adata.obs["kind"] = [*["CD4/CD8"] * 40, *["B"] * 37, *["odd/few"] * 3]
    network(adata, tiny_checkpoint, groups="kind", top=60)
    adata.write_h5ad(tmp_path / "out.h5ad")
    stored = anndata.read_h5ad(tmp_path / "out.h5ad").uns["geneformer_grn"]["network"]
    assert stored["n_cells"].values.tolist() == [["B", 37], ["CD4/CD8", 40]]
    assert stored["skipped"].values.tolist() == [["odd/few", 3]]
    assert stored["agreement"]["group"].tolist() == ["B", "CD4/CD8"]
    assert {"method", "with", "n_pairs", "spearman"} <= set(stored["agreement"].columns)


def test_one_source_as_text_and_every_way_of_reading(tiny_adata, tiny_checkpoint, tmp_path):
    adata = tiny_adata.copy()
    counts = adata.X.toarray()
    counts[0] = 0
    adata.X = counts
    reading = {"allow_normalised": True, "sum_duplicates": True, "drop_empty": True}
    network(adata, tiny_checkpoint, methods=["correlation"], top=60, **reading)
    stored = adata.uns["geneformer_grn"]["network"]
    assert stored["n_cells"].values.tolist() == [["all", 79]]
    source = adata.uns["geneformer_edges"]["source"].value_counts().index[0]
    propagate(adata, source, model=tiny_checkpoint, **reading)
    assert adata.uns["geneformer_grn"]["propagate"]["sources"] == [source]
    assert set(adata.uns["geneformer_propagated"]["source"]) == {source}
    adata.write_h5ad(tmp_path / "out.h5ad")


@pytest.mark.slow
def test_truth_and_comparison_are_written_too(tiny_adata, tiny_checkpoint, tmp_path):
    adata = tiny_adata.copy()
    genes = adata.var_names.tolist()
    rows = [f"{genes[i]}\t{genes[i + j]}\n" for i in range(0, 50, 5) for j in (1, 2, 3)]
    (tmp_path / "truth.tsv").write_text("source\ttarget\n" + "".join(rows))
    network(
        adata, tiny_checkpoint, methods=["correlation", "spearman", "combined"], groups="cell_type", top=60,
        truth=tmp_path / "truth.tsv", compare=("A", "B"), n_splits=10, min_support=4,
    )  # fmt: skip
    adata.write_h5ad(tmp_path / "out.h5ad")
    back = anndata.read_h5ad(tmp_path / "out.h5ad").uns
    assert set(back["geneformer_edges"]["method"]) == {"correlation", "spearman", "combined"}
    assert set(back["geneformer_edge_differences"]["method"]) == {"correlation", "spearman"}
    card = back["geneformer_grn"]["network"]["card"]
    assert card["group"].tolist() == ["A"] * 3 + ["B"] * 3
    assert card["verdict"].tolist() == ["", "not known", "not known"] * 2
    assert back["geneformer_grn"]["network"]["truth"] == "truth.tsv"
    with pytest.raises(TypeError, match="no_such_option"):
        network(adata, tiny_checkpoint, no_such_option=1)


def test_methods_by_one_word(tiny_adata, tiny_checkpoint):
    adata = tiny_adata.copy()
    network(adata, tiny_checkpoint, methods="combined", top=30)
    methods = set(adata.uns["geneformer_edges"]["method"])
    assert {"combined", "correlation", "attention_rank_corrected", "contextual"} <= methods
    assert "influence" not in methods


def test_propagate_without_edges_says_what_to_run(tiny_adata, tiny_checkpoint):
    with pytest.raises(ValueError, match=r"run gg\.tl\.network"):
        propagate(tiny_adata.copy(), ["A"], model=tiny_checkpoint)
