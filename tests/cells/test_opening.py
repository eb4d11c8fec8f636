"""Files that are no count files are refused with what is wrong and what to do."""

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from geneformer_grn.cells.opening import open_source, read_anndata, read_h5ad


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


def test_layers_that_are_there_are_named(tiny_adata):
    adata = tiny_adata.copy()
    adata.layers["counts"] = adata.X.copy()
    adata.raw = adata
    with open_source(adata, layer="counts") as counts, open_source(adata, layer="raw") as raw:
        assert (counts.label, raw.label) == ("layer 'counts'", "raw")
    with pytest.raises(ValueError, match="layers there: counts, raw"):
        open_source(adata, layer="spliced")
    with pytest.raises(ValueError, match="X is empty"):
        open_source(anndata.AnnData(obs=adata.obs, var=adata.var))


def test_a_file_of_a_newer_anndata(tiny_h5ad):
    with h5py.File(tiny_h5ad, "r+") as handle:
        handle["X"].attrs["encoding-type"] = "a-later-matrix"
    with pytest.raises(ValueError, match="needs a newer anndata"):
        read_h5ad(tiny_h5ad)


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
