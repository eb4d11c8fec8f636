"""Groups of cells: a column taken as it is, or clusters that separable data must give back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from geneformer_grn.cells.counts import CellCounts, log_normalised
from geneformer_grn.workflows.grouping import column_labels, group_cells, name_clusters

T_CELL, B_CELL = ["CD3D", "CD3E", "CD3G", "TRAC"], ["MS4A1", "CD79A", "CD79B"]


def planted(per_cluster: int = 40, *, seed: int = 0) -> tuple[sparse.csr_matrix, np.ndarray, np.ndarray]:
    """Three kinds of cells over 60 genes: T cells, B cells, and cells that only share gene OTHER20.

    Returns (counts, kinds, symbols).
    """
    rng = np.random.default_rng(seed)
    symbols = np.array([*T_CELL, *B_CELL, *(f"OTHER{i}" for i in range(7, 60))], dtype=object)
    kinds = np.repeat([0, 1, 2], per_cluster)
    rates = np.full((len(kinds), len(symbols)), 1.0)
    rates[:, : len(T_CELL) + len(B_CELL)] = 0.05
    rates[np.ix_(kinds == 0, range(4))] = 8.0
    rates[np.ix_(kinds == 1, range(4, 7))] = 8.0
    for kind, start in ((0, 30), (1, 40), (2, 50)):  # and ten genes each that no type is named after
        rates[np.ix_(kinds == kind, range(start, start + 10))] = 6.0
    rates[kinds == 2, 20] = 60.0
    return sparse.csr_matrix(rng.poisson(rates).astype(np.float32)), kinds, symbols


@pytest.fixture(scope="module")
def vocabulary(tiny_vocabulary):
    """The tiny vocabulary with the planted symbols."""
    _, _, symbols = planted()
    special = tiny_vocabulary.symbols[: tiny_vocabulary.n_special]
    return replace(tiny_vocabulary, symbols=np.concatenate([special, symbols]))


def as_counts(matrix: sparse.csr_matrix, obs: pd.DataFrame | None = None) -> CellCounts:
    n = matrix.shape[0]
    return CellCounts(
        matrix=matrix, column_tokens=np.arange(5, 65, dtype=np.int32),
        n_counts=np.asarray(matrix.sum(axis=1)).ravel().astype(float),
        obs=pd.DataFrame(index=[f"c{i}" for i in range(n)]) if obs is None else obs,
        kept=np.arange(n),
    )  # fmt: skip


def test_a_column_is_taken_as_it_is(vocabulary):
    matrix, kinds, _ = planted(4)
    obs = pd.DataFrame({"kind": pd.Categorical([f"kind {kind}" for kind in kinds])})
    counts = as_counts(matrix, obs)
    found = group_cells(counts, log_normalised(counts), column="kind", vocabulary=vocabulary, seed=0)
    assert found.source == "column"
    assert "'kind'" in found.note
    assert found.labels.tolist() == [f"kind {kind}" for kind in kinds]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pd.Categorical(["a", None, "b"]), ["a", "unlabelled", "b"]),
        (["a", np.nan, None], ["a", "unlabelled", "unlabelled"]),
        ([1, 2, 1], ["1", "2", "1"]),
        ([True, False, True], ["True", "False", "True"]),
        ([1.5, np.nan, 2.0], ["1.5", "unlabelled", "2.0"]),
    ],
)
def test_labels_are_text_and_missing_ones_a_group(values, expected):
    labels = column_labels(pd.DataFrame({"x": values}), "x")
    assert labels.tolist() == expected
    assert all(isinstance(label, str) for label in labels)


def test_a_column_that_is_not_there_names_those_that_are():
    obs = pd.DataFrame({"donor": ["a"], "type": ["b"]})
    with pytest.raises(ValueError, match=r"no obs column 'cell_type' .* donor, type"):
        column_labels(obs, "cell_type")
    with pytest.raises(ValueError, match="the file has: none"):
        column_labels(obs[[]], "cell_type")


def test_a_column_of_too_many_values_is_no_grouping():
    assert len(set(column_labels(pd.DataFrame({"x": np.arange(100)}), "x"))) == 100
    with pytest.raises(ValueError, match="101 distinct values"):
        column_labels(pd.DataFrame({"x": np.arange(101)}), "x")


def test_clusters_are_the_kinds_of_cells_and_named_by_their_markers(vocabulary):
    matrix, kinds, _ = planted()
    counts = as_counts(matrix)
    found = group_cells(counts, log_normalised(counts), column=None, vocabulary=vocabulary, seed=0)
    assert found.source == "clusters"
    assert "not an annotation" in found.note
    for kind, start in ((0, "T cell"), (1, "B cell"), (2, "OTHER20+ cells")):
        names = set(found.labels[kinds == kind])
        assert all(name.startswith(start) for name in names), (kind, names)
    again = group_cells(counts, log_normalised(counts), column=None, vocabulary=vocabulary, seed=0)
    np.testing.assert_array_equal(again.labels, found.labels)


def test_cells_that_stand_out_by_a_mitochondrial_gene_are_pointed_at(vocabulary):
    matrix, kinds, _ = planted()
    counts = as_counts(matrix)
    quiet = group_cells(counts, log_normalised(counts), column=None, vocabulary=vocabulary, seed=0)
    assert "mitochondrial" not in quiet.note
    symbols = vocabulary.symbols.copy()
    symbols[symbols == "OTHER20"] = "MT-CO1"
    renamed = replace(vocabulary, symbols=symbols)
    found = group_cells(counts, log_normalised(counts), column=None, vocabulary=renamed, seed=0)
    assert set(found.labels[kinds == 2]) == {"MT-CO1+ cells"}
    assert "MT-CO1+ cells: what stands out most is a mitochondrial gene" in found.note


def test_few_cells_are_one_group(vocabulary):
    matrix, _, _ = planted(9)
    counts = as_counts(matrix)
    found = group_cells(counts, log_normalised(counts), column=None, vocabulary=vocabulary, seed=0)
    assert set(found.labels) == {"all cells"}
    assert "27 cells are too few" in found.note


def test_names_are_the_planted_types():
    matrix, kinds, symbols = planted()
    assert name_clusters(matrix.log1p(), kinds, symbols) == {0: "T cell", 1: "B cell", 2: "OTHER20+ cells"}


def test_two_clusters_of_a_type_get_numbers():
    matrix, kinds, symbols = planted()
    halves = kinds.copy()
    halves[kinds == 0] = np.where(np.arange((kinds == 0).sum()) % 2 == 0, 0, 7)
    names = name_clusters(matrix.log1p(), halves, symbols)
    assert names == {0: "T cell 1", 1: "B cell", 2: "OTHER20+ cells", 7: "T cell 2"}
    assert len(set(names.values())) == len(names)


def test_one_marker_is_not_enough_for_a_name():
    """Of CD79A alone nothing is concluded; the cluster is called after its strongest gene."""
    matrix, kinds, symbols = planted()
    kept = [i for i, symbol in enumerate(symbols) if symbol not in {"MS4A1", "CD79B"}]
    names = name_clusters(matrix.log1p()[:, kept].tocsr(), kinds, symbols[kept])
    assert names[1] == "CD79A+ cells"


def test_a_gene_of_few_cells_names_no_cluster():
    """A gene of 4 % of the cells, all in one cluster, stands out most there, and is not what they share."""
    matrix, kinds, symbols = planted(400)
    rng = np.random.default_rng(1)
    dense = matrix.toarray()
    inside = np.flatnonzero(kinds == 2)
    dense[:, [20, *range(50, 60)]] = rng.poisson(1.0, (1200, 11))
    dense[:, 21] = 0
    dense[inside[:48], 21] = 500.0
    dense[inside, 22] = rng.poisson(1.5, 400)
    names = name_clusters(sparse.csr_matrix(dense).log1p(), kinds, symbols)
    assert names[2] == "OTHER22+ cells"
