"""Columns of tokens: summed where several mean one gene, refused where an identifier is repeated."""

import logging

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from geneformer_grn.cells.matching import check_duplicates, known_genes, map_identifiers, row_sums

DTYPES = (np.float32, np.float64, np.int32, np.uint16, np.int64)


@given(
    tokens=st.lists(st.integers(-1, 6), min_size=1, max_size=12).filter(lambda values: max(values) >= 0),
    n_cells=st.integers(1, 9),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 1000),
)
@settings(max_examples=80, deadline=None)
def test_known_genes_equal_dense_sums(tokens, n_cells, dtype, seed):
    tokens = np.array(tokens, dtype=np.int32)
    dense = np.random.default_rng(seed).poisson(0.8, (n_cells, len(tokens))).astype(dtype)
    known, column_tokens = known_genes(sparse.csr_matrix(dense), tokens, integral=True)
    assert column_tokens.tolist() == sorted(set(tokens[tokens >= 0].tolist()))
    expected = np.stack([dense[:, tokens == token].sum(axis=1) for token in column_tokens], axis=1)
    np.testing.assert_array_equal(known.toarray(), expected)
    assert known.has_sorted_indices
    assert known.dtype == np.float32
    assert (known.data != 0).all()


def test_blocks_of_rows_change_nothing(monkeypatch):
    dense = np.random.default_rng(0).poisson(0.5, (50, 8)).astype(np.float32)
    dense[10:14] = 0
    tokens = np.array([3, -1, 3, 0, 5, 1, -1, 2], dtype=np.int32)
    whole, _ = known_genes(sparse.csr_matrix(dense), tokens, integral=True)
    monkeypatch.setattr("geneformer_grn.cells.matching._ROWS_VALUES", 7)
    parts, _ = known_genes(sparse.csr_matrix(dense), tokens, integral=True)
    np.testing.assert_array_equal(whole.toarray(), parts.toarray())


def test_counts_that_float32_would_round_stay_exact():
    big = sparse.csr_matrix(np.array([[2**24 + 1, 1]], dtype=np.int64))
    known, _ = known_genes(big, np.array([0, 1], dtype=np.int32), integral=True)
    assert known.dtype == np.float64
    assert known[0, 0] == 2**24 + 1


def test_row_sums_with_empty_rows():
    dense = np.zeros((5, 3), dtype=np.float32)
    dense[1], dense[3, 2] = 2.0, 1.0
    np.testing.assert_array_equal(row_sums(sparse.csr_matrix(dense)), [0, 6, 0, 1, 0])
    np.testing.assert_array_equal(row_sums(sparse.csr_matrix((2, 3))), [0, 0])


def test_repeated_ensembl_ids_are_named():
    repeated = np.array(["ENSG00000000001", "ensg00000000001", "ENSG00000000002"], dtype=object)
    with pytest.raises(ValueError, match=r"ENSG00000000001 occurs 2 times in var_names.*--sum-duplicates"):
        check_duplicates(repeated, "var_names", "cells")


@pytest.mark.parametrize("names", [["A", "A"], ["", ""], ["ENSG00000000001.1", "ENSG00000000001.2"]])
def test_other_repeats_are_not_refused(names):
    check_duplicates(np.array(names, dtype=object), "var_names", "cells")


def mapped(vocabulary, index, gene_column=None, uns=None, **columns):
    var = pd.DataFrame(columns, index=pd.Index(index, dtype=object))
    adata = anndata.AnnData(X=np.ones((1, len(var)), dtype=np.float32), var=var, uns=uns)
    return map_identifiers(
        adata, var, vocabulary=vocabulary, gene_column=gene_column, sum_duplicates=False, name="cells"
    )


def test_one_chance_match_does_not_decide_where_the_identifiers_are(tiny_vocabulary):
    symbols = [f"GENE{number}" for number in range(1, 21)]
    numbers = ["GENE1", *map(str, range(1, 20))]
    mapping, label = mapped(tiny_vocabulary, numbers, gene_symbol=symbols)
    assert label == "var['gene_symbol']"
    assert mapping.report["n_matched"] == 20
    assert mapped(tiny_vocabulary, numbers, "index", gene_symbol=symbols)[0].report["n_matched"] == 1


def test_near_ties_go_to_ensembl_ids_and_map_genes_decides(tiny_vocabulary):
    symbols = [f"GENE{number}" for number in range(1, 41)]
    ids = [f"ENSG{number:011d}" for number in [*range(1, 40), 999]]
    assert mapped(tiny_vocabulary, symbols, gene_ids=ids)[1] == "var['gene_ids']"
    few = [*ids[:5], *[""] * 35]
    assert mapped(tiny_vocabulary, symbols, ensembl_id=few)[1] == "var_names"
    written = {"geneformer_grn": {"map_genes": {}}}
    mapping, label = mapped(tiny_vocabulary, symbols, uns=written, ensembl_id=few)
    assert (label, mapping.report["n_matched"]) == ("var['ensembl_id']", 5)


def test_all_places_looked_in_are_named(tiny_vocabulary):
    with pytest.raises(ValueError, match=r"looked in var_names \(first: '0'\), var\['symbol'\]"):
        mapped(tiny_vocabulary, ["0", "1"], symbol=["x", "y"])


@pytest.mark.parametrize("by", ["case", "ids"])
def test_mouse_genes_are_told(tiny_vocabulary, caplog, by):
    symbols = [f"GENE{number}" for number in range(1, 11)]
    columns = {}
    if by == "case":
        symbols = [symbol.capitalize() for symbol in symbols]
    else:
        columns = {"gene_ids": [f"ENSMUSG{number:011d}" for number in range(10)]}
    with caplog.at_level(logging.WARNING, "geneformer_grn"):
        mapping, label = mapped(tiny_vocabulary, symbols, **columns)
    assert label == "var_names"
    assert mapping.report["species_warning"].startswith("looks like mouse")
    assert "looks like mouse" in caplog.text


@pytest.mark.parametrize("change", [str.upper, str.lower])
def test_human_genes_are_not_taken_for_mouse(tiny_vocabulary, change):
    names = [change(name) for name in ["GENE1", "GENE2", "C1orf1"]]
    assert "species_warning" not in mapped(tiny_vocabulary, names)[0].report
