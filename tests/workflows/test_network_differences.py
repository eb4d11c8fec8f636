"""Two groups compared: the same as on their expression alone; genes and groups that cannot be; the model."""

import numpy as np
import pytest

from geneformer_grn.cells.counts import log_normalised, read_counts
from geneformer_grn.cells.ranking import rank_cells
from geneformer_grn.network.differences import edge_differences
from geneformer_grn.network.inference import correlation_edges
from geneformer_grn.workflows.network_differences import COLUMNS, compare_groups, group_pair, split_groups
from geneformer_grn.workflows.network_scorers import NetworkCells
from geneformer_grn.workflows.network_settings import NetworkSettings


@pytest.fixture(scope="module")
def cells(tiny_adata, tiny_vocabulary, tiny_encoder):
    counts = read_counts(tiny_adata, tiny_vocabulary)
    return NetworkCells(
        expression=log_normalised(counts), counts=counts, vocabulary=tiny_vocabulary,
        encoder=tiny_encoder, ranked=rank_cells(counts, tiny_vocabulary),
    )  # fmt: skip


@pytest.fixture(scope="module")
def labels(cells):
    return cells.counts.obs["cell_type"].astype(str).to_numpy(dtype=object)


@pytest.fixture(scope="module")
def genes(cells):
    tokens = cells.counts.column_tokens
    return tokens[cells.vocabulary.is_regulator[tokens]], tokens[:20]


def test_correlation_is_compared_as_on_its_expression(cells, labels, genes):
    settings = NetworkSettings(top=15, seed=4)
    table = compare_groups(
        cells, labels, ("B", "A"), genes=genes, methods=["correlation"], settings=settings, n_splits=10
    )
    assert tuple(table.columns) == COLUMNS
    assert len(table) == 15
    assert set(table["group_a"]) == {"B"}
    names = cells.vocabulary.ensembl_ids
    detected = (cells.expression[labels == "A"].getnnz(axis=0) >= 5) & (
        cells.expression[labels == "B"].getnnz(axis=0) >= 5
    )
    enough = set(cells.counts.column_tokens[detected].tolist())
    kept = [names[[gene for gene in part if gene in enough]].tolist() for part in genes]

    def score(rows):
        return correlation_edges(cells.expression[rows], cells.gene_ids, regulators=kept[0], targets=kept[1])

    groups = np.flatnonzero(labels == "B"), np.flatnonzero(labels == "A")
    expected = edge_differences(score, *groups, n_splits=10, seed=4).head(15)
    for column in expected.columns:
        assert table[column].tolist() == expected[column].tolist()


def test_the_model_is_compared_and_combinations_are_left_out(cells, labels, genes, caplog):
    table = compare_groups(
        cells, labels, ("A", "B"), genes=genes, methods=["attention", "embedding", "combined"],
        settings=NetworkSettings(), n_splits=10,
    )  # fmt: skip
    assert "not compared between groups: embedding, combined" in caplog.text
    assert set(table["method"]) == {"attention"}
    assert (table["weight_a"] > 0).all()
    assert (table["low"] < table["high"]).all()
    with pytest.raises(ValueError, match="none of combined can be compared"):
        compare_groups(
            cells, labels, ("A", "B"), genes=genes, methods=["combined"], settings=NetworkSettings()
        )


def test_depth_is_mentioned(cells, labels, genes, caplog):
    from dataclasses import replace

    deeper = np.where(labels == "A", 1000.0, 500.0)
    other = replace(cells, counts=replace(cells.counts, n_counts=deeper))
    how = {"genes": genes, "methods": ["correlation"], "settings": NetworkSettings(), "n_splits": 10}
    compare_groups(other, labels, ("A", "B"), **how)
    assert "a cell of 'A' holds 1000 counts and one of 'B' 500 (medians): correlations grow" in caplog.text


def test_genes_that_one_group_lacks(cells, labels, genes):
    with pytest.raises(ValueError, match="no regulator is expressed in 41 cells of both 'A' and 'B'"):
        compare_groups(
            cells, labels, ("A", "B"), genes=genes, methods=["ridge"],
            settings=NetworkSettings(min_support=41),
        )  # fmt: skip


def test_groups_that_cannot_be_compared(labels):
    with pytest.raises(ValueError, match="name it by --groups"):
        group_pair(None, ("A", "B"), min_cells=3)
    with pytest.raises(ValueError, match="there is no group 'C'; the cells have 'A', 'B'"):
        group_pair(labels, ("A", "C"), min_cells=3)
    with pytest.raises(ValueError, match="'A' cannot be compared with itself"):
        group_pair(labels, ("A", "A"), min_cells=3)
    with pytest.raises(ValueError, match=r"too few cells to compare: 'A' \(40\), 'B' \(40\); 41 are needed"):
        group_pair(labels, ("A", "B"), min_cells=41)


def test_group_names_with_commas():
    labels = np.array(["T, CD4", "T, CD8", "B", "a", "a,b", "b,c", "c"], dtype=object)
    assert split_groups("T, CD4,T, CD8", labels) == ("T, CD4", "T, CD8")
    assert split_groups("B , T, CD8", labels) == ("B", "T, CD8")
    assert split_groups("x,y", labels) == ("x", "y")
    with pytest.raises(ValueError, match="rename a group"):
        split_groups("a,b,c", labels)
    with pytest.raises(ValueError, match="with a comma between them"):
        split_groups("B", labels)


def test_slow_methods_that_nobody_named_are_not_compared(cells, labels, genes, caplog):
    asked = {"genes": genes, "methods": ["contextual", "ridge"], "n_splits": 10}
    quick = compare_groups(cells, labels, ("A", "B"), settings=NetworkSettings(methods="all"), **asked)
    assert set(quick["method"]) == {"ridge"}
    assert "not compared between groups: contextual; slow ones are by name (--methods)" in caplog.text
    named = NetworkSettings(methods=("contextual", "ridge"))
    assert set(compare_groups(cells, labels, ("A", "B"), settings=named, **asked)["method"]) == {
        "contextual",
        "ridge",
    }
