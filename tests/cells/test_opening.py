"""Files that are no count files are refused with what is wrong and what to do."""

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from geneformer_grn.cells.opening import (
    as_csr,
    check_values,
    choose_matrix,
    identifier_candidates,
    open_source,
    raw_counts_elsewhere,
    read_anndata,
    read_h5ad,
)


def test_reads_what_anndata_wrote(tiny_h5ad, tiny_adata):
    assert (read_h5ad(tiny_h5ad).X != tiny_adata.X).nnz == 0


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cells\.h5ad: no such file"):
        read_h5ad(tmp_path / "cells.h5ad")


def test_folder(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        read_h5ad(tmp_path)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_truncated(tiny_h5ad, share):
    content = tiny_h5ad.read_bytes()
    tiny_h5ad.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="truncated or damaged"):
        read_h5ad(tiny_h5ad)


@pytest.mark.parametrize("content", [b"", b"gene,cell\n1,2\n"])
def test_not_hdf5(tmp_path, content):
    path = tmp_path / "cells.h5ad"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"not an \.h5ad file"):
        read_h5ad(path)


def test_hdf5_of_another_kind(tmp_path):
    path = tmp_path / "filtered_feature_bc_matrix.h5"
    with h5py.File(path, "w") as handle:
        handle.create_group("matrix")
    with pytest.raises(ValueError, match="read_10x_h5"):
        read_h5ad(path)


def test_damaged_inside(tiny_h5ad):
    with h5py.File(tiny_h5ad, "r+") as handle:
        del handle["X/indices"]
    with pytest.raises(ValueError, match="probably damaged"):
        read_h5ad(tiny_h5ad)


def test_repeated_names_do_not_warn(tmp_path, tiny_adata):
    adata = tiny_adata.copy()
    adata.obs_names = ["cell"] * adata.n_obs
    adata.write_h5ad(tmp_path / "cells.h5ad")
    assert read_h5ad(tmp_path / "cells.h5ad").n_obs == adata.n_obs


def test_choose_matrix_names_what_is_there(tiny_adata):
    adata = tiny_adata.copy()
    adata.layers["counts"] = adata.X.copy()
    adata.raw = adata
    assert choose_matrix(adata, "counts")[2] == "layer 'counts'"
    assert choose_matrix(adata, "raw")[1] is adata.raw.var
    with pytest.raises(ValueError, match="layers there: counts, raw"):
        choose_matrix(adata, "spliced")
    with pytest.raises(ValueError, match="X is empty"):
        choose_matrix(anndata.AnnData(obs=adata.obs, var=adata.var), None)


def test_as_csr_copies_nothing_that_is_csr(tiny_adata):
    assert np.shares_memory(as_csr(tiny_adata.X, "X").data, tiny_adata.X.data)


@pytest.mark.parametrize(
    "convert", [sparse.csc_matrix, sparse.coo_matrix, sparse.csr_array, lambda X: X.toarray()]
)
def test_as_csr_from_anything(tiny_adata, convert):
    assert (as_csr(convert(tiny_adata.X), "X") != tiny_adata.X).nnz == 0


def test_as_csr_refuses_what_has_no_numbers():
    with pytest.raises(TypeError, match="X is a list"):
        as_csr([[1, 2]], "X")
    with pytest.raises(ValueError, match="holds object values"):
        as_csr(np.array([["a"]], dtype=object), "X")


def test_a_file_of_a_newer_anndata(tiny_h5ad):
    with h5py.File(tiny_h5ad, "r+") as handle:
        handle["X"].attrs["encoding-type"] = "a-later-matrix"
    with pytest.raises(ValueError, match="needs a newer anndata"):
        read_h5ad(tiny_h5ad)


def test_half_precision_becomes_float32():
    matrix = as_csr(np.array([[0, 2], [1, 0]], dtype=np.float16), "X")
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix.toarray(), [[0, 2], [1, 0]])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers(value):
    with pytest.raises(ValueError, match="NaN or infinite"):
        check_values(np.array([1.0, value, 2.0]), "X")


def test_negative_values():
    with pytest.raises(ValueError, match=r"smallest -0\.5"):
        check_values(np.array([1.0, -0.5]), "X")


def test_value_summary():
    summary = check_values(np.array([1.0, 2.5, 7.25, 3.0], dtype=np.float32), "X")
    assert (summary.maximum, summary.integral, summary.first_fraction) == (7.25, False, 2.5)
    assert check_values(np.array([], dtype=np.float32), "X").integral
    assert check_values(np.array([4, 5]), "X").integral


def table(index, **columns):
    return pd.DataFrame(columns, index=pd.Index(index, dtype=object))


def names(var, column=None):
    return [label for label, _ in identifier_candidates(var, column)]


def test_identifiers_are_found_by_content():
    ids = ["ENSG00000000001.4", "ENSG00000000002"]
    assert names(table(["a", "b"], gene_ids=ids, n=[1, 2]))[0] == "var['gene_ids']"
    assert names(table(["a", "b"], accession=ids))[0] == "var['accession']"
    assert names(table(ids, gene_ids=["x", "y"]))[0] == "var_names"
    assert names(table(ids, ensembl_id=ids))[:2] == ["var['ensembl_id']", "var_names"]
    assert names(table(["0", "1"], gene_symbol=["A", "B"])) == ["var_names", "var['gene_symbol']"]


def test_the_column_asked_for_is_the_only_one():
    var = table(["ENSG00000000001"], symbol=pd.Categorical([None], categories=["A"]))
    assert names(var, "symbol") == ["var['symbol']"]
    assert next(identifier_candidates(var, "symbol"))[1].tolist() == [""]
    assert names(var, "index") == ["var_names"]
    with pytest.raises(ValueError, match="no column 'gene'; columns there: symbol"):
        names(var, "gene")


def test_read_anndata_reads_h5ad_whole_and_other_files_too(tmp_path, tiny_adata):
    adata = tiny_adata.copy()
    adata.layers["counts"] = adata.X.copy()
    adata.uns["note"] = "kept"
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert read_anndata(tmp_path / "a.h5ad").uns["note"] == "kept"
    table = pd.DataFrame(adata.X.toarray(), index=adata.obs_names, columns=adata.var_names).astype(int)
    table.to_csv(tmp_path / "a.csv")
    read = read_anndata(tmp_path / "a.csv")
    assert (read.X != tiny_adata.X).nnz == 0
    assert list(read.var_names) == list(adata.var_names)
    assert list(read.obs_names) == list(adata.obs_names)


def test_where_else_raw_counts_are(tmp_path, tiny_adata):
    adata = tiny_adata.copy()
    adata.layers["counts"] = adata.X.copy()
    adata.layers["scaled"] = adata.X - 0.5 * (adata.X > 0)
    adata.X = adata.X.log1p()
    adata.write_h5ad(tmp_path / "a.h5ad")
    for where in (adata, tmp_path / "a.h5ad"):
        with open_source(where) as source:
            assert raw_counts_elsewhere(source) == (
                " Raw counts seem to be in layer 'counts': pass --layer counts."
            )
        with open_source(where, layer="counts") as source:
            assert raw_counts_elsewhere(source) == ""


@pytest.mark.shared
def test_every_shared_file_opens(shared_dir):
    files = sorted((shared_dir / "data").rglob("*.h5ad"))
    assert files
    for path in files:
        with open_source(path) as source:
            adata = anndata.read_h5ad(path)
            n = sum(block.nnz for _, block in source.blocks())
            assert n == (adata.X.nnz if sparse.issparse(adata.X) else np.count_nonzero(adata.X))
            assert source.obs.equals(adata.obs)
            assert list(source.var.index) == list(adata.var_names)
            assert source.stated["source"] == str(adata.uns.get("source") or "not stated")
