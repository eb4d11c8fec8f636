"""Reading counts: what is kept, what is refused, and what the report says about it."""

import logging

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from geneformer_grn.cells.counts import ReadSettings, log_normalised, read_counts
from geneformer_grn.cells.ranking import rank_cells


def with_matrix(adata, X, **kwargs):
    return anndata.AnnData(X=X, obs=adata.obs.copy(), var=adata.var.copy(), **kwargs)


def test_counts_are_those_of_the_file(tiny_h5ad, tiny_adata, tiny_vocabulary):
    counts = read_counts(tiny_h5ad, tiny_vocabulary)
    np.testing.assert_array_equal(counts.matrix.toarray(), tiny_adata.X.toarray())
    np.testing.assert_array_equal(counts.column_tokens, np.arange(5, 65))
    np.testing.assert_array_equal(counts.n_counts, tiny_adata.X.toarray().sum(axis=1))
    assert counts.name == "cells.h5ad"
    assert counts.obs.index.tolist() == tiny_adata.obs.index.tolist()
    assert counts.report["n_cells"] == 80
    assert counts.report["share_counts_lost"] == 0
    assert counts.report["identifiers"] == "var_names"


@pytest.mark.parametrize(
    "convert", [sparse.csc_matrix, lambda X: X.toarray(), lambda X: X.astype(np.int32), sparse.csr_array]
)
def test_every_kind_of_matrix_reads_the_same(tiny_adata, tiny_vocabulary, convert):
    counts = read_counts(with_matrix(tiny_adata, convert(tiny_adata.X)), tiny_vocabulary)
    assert (counts.matrix != tiny_adata.X).nnz == 0


def test_unknown_genes_count_in_the_total_only(tiny_adata, tiny_vocabulary):
    adata = tiny_adata.copy()
    adata.var_names = ["UNKNOWN", *adata.var_names[1:]]
    counts = read_counts(adata, tiny_vocabulary)
    np.testing.assert_array_equal(counts.matrix.toarray(), tiny_adata.X[:, 1:].toarray())
    np.testing.assert_array_equal(counts.n_counts, tiny_adata.X.sum(axis=1).A1)
    lost = tiny_adata.X[:, 0].sum() / tiny_adata.X.sum()
    assert counts.report["share_counts_lost"] == pytest.approx(lost)
    assert counts.report["counts_known"] == tiny_adata.X[:, 1:].sum()
    assert (counts.report["n_matched"], counts.report["n_lost"]) == (59, 1)


def test_symbols_and_repeated_symbols_are_summed(tiny_adata, tiny_vocabulary):
    adata = tiny_adata.copy()
    symbols = tiny_vocabulary.symbols[5:].tolist()
    symbols[1] = symbols[0]
    adata.var_names = symbols
    counts = read_counts(adata, tiny_vocabulary)
    np.testing.assert_array_equal(counts.matrix.toarray()[:, 0], tiny_adata.X[:, :2].sum(axis=1).A1)
    assert counts.report["n_summed"] == 1


def test_repeated_ensembl_ids(tiny_adata, tiny_vocabulary):
    adata = tiny_adata.copy()
    adata.var_names = [adata.var_names[1], *adata.var_names[1:]]
    with pytest.raises(ValueError, match="ENSG00000000002 occurs 2 times"):
        read_counts(adata, tiny_vocabulary)
    counts = read_counts(adata, tiny_vocabulary, ReadSettings(sum_duplicates=True))
    np.testing.assert_array_equal(counts.matrix.toarray()[:, 0], tiny_adata.X[:, :2].sum(axis=1).A1)


def test_filter_pass_keeps_rows_equal_to_one(tiny_adata, tiny_vocabulary):
    adata = tiny_adata.copy()
    adata.obs["filter_pass"] = np.where(np.arange(80) % 4 == 0, 0, 1)
    counts = read_counts(adata, tiny_vocabulary)
    np.testing.assert_array_equal(counts.kept, np.flatnonzero(np.arange(80) % 4))
    assert counts.report["n_dropped_filter"] == 20
    adata.obs["filter_pass"] = 0
    with pytest.raises(ValueError, match="no cell has"):
        read_counts(adata, tiny_vocabulary)


def test_empty_cells(tiny_adata, tiny_vocabulary):
    X = tiny_adata.X.toarray()
    X[[3, 7]] = 0
    adata = with_matrix(tiny_adata, sparse.csr_matrix(X))
    with pytest.raises(ValueError, match=r"2 of 80 cells are empty.*--drop-empty"):
        read_counts(adata, tiny_vocabulary)
    counts = read_counts(adata, tiny_vocabulary, ReadSettings(drop_empty=True))
    assert len(counts) == 78
    assert counts.report["n_dropped_empty"] == 2
    assert 3 not in counts.kept
    np.testing.assert_array_equal(counts.matrix.toarray(), np.delete(X, [3, 7], axis=0))


def test_cells_of_unknown_genes_only_are_empty(tiny_adata, tiny_vocabulary):
    X = tiny_adata.X.toarray()
    X[5, :] = 0
    X[5, 0] = 3
    adata = with_matrix(tiny_adata, sparse.csr_matrix(X))
    adata.var_names = ["UNKNOWN", *adata.var_names[1:]]
    with pytest.raises(ValueError, match="1 of 80 cells are empty"):
        read_counts(adata, tiny_vocabulary)


def test_no_counts_at_all(tiny_adata, tiny_vocabulary):
    with pytest.raises(ValueError, match="none of its 80 cells"):
        read_counts(
            with_matrix(tiny_adata, sparse.csr_matrix((80, 60), dtype=np.float32)),
            tiny_vocabulary,
            ReadSettings(drop_empty=True),
        )


def normalised(adata, log=True):
    X = adata.X.toarray().astype(np.float64)
    X = X / X.sum(axis=1, keepdims=True) * 1e4
    return with_matrix(adata, sparse.csr_matrix((np.log1p(X) if log else X).astype(np.float32)))


def test_normalised_is_refused_and_says_where_counts_are(tiny_adata, tiny_vocabulary):
    adata = normalised(tiny_adata)
    with pytest.raises(ValueError, match=r"looks log-normalised; raw counts.*--allow-normalised"):
        read_counts(adata, tiny_vocabulary)
    adata.raw = tiny_adata
    with pytest.raises(ValueError, match="in raw: pass --layer raw"):
        read_counts(adata, tiny_vocabulary)
    adata.layers["counts"] = tiny_adata.X
    with pytest.raises(ValueError, match="in layer 'counts': pass --layer counts"):
        read_counts(adata, tiny_vocabulary)
    for layer in ("raw", "counts"):
        counts = read_counts(adata, tiny_vocabulary, ReadSettings(layer=layer))
        assert (counts.matrix != tiny_adata.X).nnz == 0
    adata = with_matrix(tiny_adata, tiny_adata.X, layers={"log": normalised(tiny_adata).X})
    with pytest.raises(ValueError, match="leave --layer out"):
        read_counts(adata, tiny_vocabulary, ReadSettings(layer="log"))


@pytest.mark.parametrize("log", [True, False])
def test_normalised_on_request_ranks_as_counts_do(tiny_adata, tiny_vocabulary, log, caplog):
    with caplog.at_level(logging.WARNING, logger="geneformer_grn"):
        counts = read_counts(
            normalised(tiny_adata, log), tiny_vocabulary, ReadSettings(allow_normalised=True)
        )
    assert ("log1p is undone" in caplog.text) == log
    assert counts.report["normalised"]
    np.testing.assert_allclose(counts.n_counts, 1e4, rtol=1e-5)
    raw = rank_cells(read_counts(tiny_adata, tiny_vocabulary), tiny_vocabulary)
    np.testing.assert_array_equal(rank_cells(counts, tiny_vocabulary).tokens, raw.tokens)


def test_negative_is_refused_even_on_request(tiny_adata, tiny_vocabulary):
    X = tiny_adata.X.copy()
    X.data[5] = -1
    with pytest.raises(ValueError, match="negative"):
        read_counts(with_matrix(tiny_adata, X), tiny_vocabulary, ReadSettings(allow_normalised=True))


def test_no_known_gene(tiny_adata, tiny_vocabulary):
    adata = tiny_adata.copy()
    adata.var_names = [f"X{i}" for i in range(60)]
    message = r"0 of 60 genes match.*first: 'X0'.*--gene-column.*gg\.pp\.map_genes"
    with pytest.raises(ValueError, match=message):
        read_counts(adata, tiny_vocabulary)


def test_losing_most_counts(tiny_adata, tiny_vocabulary, caplog):
    adata = tiny_adata.copy()
    adata.var_names = [f"X{i}" for i in range(59)] + [adata.var_names[59]]
    with pytest.raises(ValueError, match="% of its counts are in genes that the vocabulary does not know"):
        read_counts(adata, tiny_vocabulary, ReadSettings(drop_empty=True))
    adata.var_names = [f"X{i}" for i in range(15)] + list(tiny_adata.var_names[15:])
    with caplog.at_level(logging.WARNING, logger="geneformer_grn"):
        counts = read_counts(adata, tiny_vocabulary, ReadSettings(drop_empty=True))
    assert 0.2 < counts.report["share_counts_lost"] < 0.8
    assert "does not know" in caplog.text


def test_a_sample_keeps_the_order(tiny_adata, tiny_vocabulary):
    counts = read_counts(tiny_adata, tiny_vocabulary, n_cells=20, seed=3)
    assert len(counts) == len(counts.obs) == len(counts.n_counts) == 20
    assert (np.diff(counts.kept) > 0).all()
    np.testing.assert_array_equal(counts.matrix.toarray(), tiny_adata.X[counts.kept].toarray())
    again = read_counts(tiny_adata, tiny_vocabulary, n_cells=20, seed=3)
    np.testing.assert_array_equal(counts.kept, again.kept)
    assert len(read_counts(tiny_adata, tiny_vocabulary, n_cells=500)) == 80
    with pytest.raises(ValueError, match="at least 1"):
        read_counts(tiny_adata, tiny_vocabulary, n_cells=0)


def test_total_counts_from_a_column(tiny_adata, tiny_vocabulary):
    adata = tiny_adata.copy()
    adata.obs["n_counts"] = 1000.0
    adata.obs["umis"] = np.arange(80) + 500
    assert read_counts(adata, tiny_vocabulary).report["n_counts_from"] == "file"
    counts = read_counts(adata, tiny_vocabulary, ReadSettings(counts_column="umis"))
    np.testing.assert_array_equal(counts.n_counts, np.arange(80) + 500)
    with pytest.raises(ValueError, match="no column 'depth'; columns there: cell_type, n_counts, umis"):
        read_counts(adata, tiny_vocabulary, ReadSettings(counts_column="depth"))
    adata.obs["umis"] = 0
    with pytest.raises(ValueError, match="not a positive number in 80 of 80"):
        read_counts(adata, tiny_vocabulary, ReadSettings(counts_column="umis"))


def test_log_normalised(tiny_adata, tiny_vocabulary):
    X = tiny_adata.X.toarray()
    expected = np.log1p(X / X.sum(axis=1, keepdims=True) * 1e4)
    counts = read_counts(tiny_adata, tiny_vocabulary)
    result = log_normalised(counts)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result.toarray(), expected, rtol=1e-6)


def test_no_cells_and_strangers(tiny_adata, tiny_vocabulary):
    with pytest.raises(ValueError, match="0 cells and 60 genes"):
        read_counts(tiny_adata[:0].copy(), tiny_vocabulary)
    with pytest.raises(TypeError, match="not a DataFrame"):
        read_counts(pd.DataFrame(), tiny_vocabulary)


def test_the_input_is_left_alone(tiny_adata, tiny_vocabulary):
    before = tiny_adata.copy()
    rank_cells(read_counts(tiny_adata, tiny_vocabulary), tiny_vocabulary)
    assert (before.X != tiny_adata.X).nnz == 0
    pd.testing.assert_frame_equal(before.obs, tiny_adata.obs)


def test_views_and_backed_files(tiny_h5ad, tiny_adata, tiny_vocabulary):
    part = read_counts(tiny_adata[10:30, ::2], tiny_vocabulary)
    np.testing.assert_array_equal(part.matrix.toarray(), tiny_adata.X[10:30, ::2].toarray())
    backed = anndata.read_h5ad(tiny_h5ad, backed="r")
    try:
        assert (read_counts(backed, tiny_vocabulary).matrix != tiny_adata.X).nnz == 0
    finally:
        backed.file.close()
