"""Arrays in chunks: what is missing is found, and a dense matrix in tall chunks is never unpacked whole."""

import shutil
from contextlib import ExitStack
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import zarr
from scipy import sparse

from geneformer_grn.cells.formats import chunks
from geneformer_grn.cells.formats.chunks import dense_matrix
from geneformer_grn.cells.opening import open_source


def store(path, matrix, *, key="X", step=None, **sizes):
    """Write an AnnData of `matrix` whose arrays of `key` are in chunks of `step`, or as `sizes` say."""
    adata = anndata.AnnData(matrix)
    adata.write_zarr(path)
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    for name in ("data", "indices", "indptr"):
        values = group[key][name][:]
        del group[key][name]
        array = group[key].create_array(
            name, shape=values.shape, dtype=values.dtype, chunks=sizes.get(name, step)
        )
        array[:] = values
    zarr.consolidate_metadata(path)
    return path


def lose(path, number):
    """Delete a chunk, as a copy that was broken off lacks it; zarr 2 and 3 name it differently."""
    (chunk,) = [file for file in path.rglob(str(number)) if file.is_file()]
    chunk.unlink()


def read(path):
    with open_source(path) as source:
        parts = [block.toarray() for _, block in source.blocks(max_values=100)]
    return np.concatenate(parts)


pytestmark = pytest.mark.filterwarnings("ignore:Writing zarr v2:UserWarning")


@pytest.mark.parametrize("layout", [sparse.csr_matrix, sparse.csc_matrix])
@pytest.mark.parametrize(("key", "number"), [("data", 0), ("data", 3), ("indices", 2), ("indptr", 0)])
def test_a_sparse_zarr_store_that_lacks_a_chunk_is_refused(layout, key, number, counts, tmp_path):
    path = store(tmp_path / "a.zarr", layout(counts.astype(np.float32)), step=(20,))
    np.testing.assert_array_equal(read(path), counts)
    n_chunks = zarr.open_group(path, mode="r")["X"][key].nchunks
    lose(path / "X" / key, number)
    with pytest.raises(
        ValueError, match=rf"1 of {n_chunks} chunks of its {key} are missing .* Copy the store"
    ):
        read(path)


def test_a_zip_that_lacks_a_chunk_is_refused(counts, tmp_path):
    path = store(tmp_path / "a.zarr", sparse.csr_matrix(counts.astype(np.float32)), step=(20,))
    lose(path / "X" / "data", 1)
    with pytest.raises(ValueError, match="chunks of its data are missing"):
        read(Path(shutil.make_archive(str(path), "zip", path)))


def test_a_layer_that_is_not_read_may_lack_chunks(cells, counts, tmp_path):
    cells.layers["other"] = cells.X.copy()
    cells.write_zarr(tmp_path / "a.zarr")
    lose(tmp_path / "a.zarr" / "layers" / "other" / "data", 0)
    np.testing.assert_array_equal(read(tmp_path / "a.zarr"), counts)


def test_chunks_of_zeros_that_zarr_leaves_out_are_no_damage(tmp_path):
    """The first cells are empty, the next have a count of gene 0 only: both make chunks of zeros."""
    counts = np.random.default_rng(0).poisson(1.0, (90, 40))
    counts[:30], counts[30:60] = 0, np.eye(1, 40)
    path = store(tmp_path / "a.zarr", sparse.csr_matrix(counts.astype(np.float32)), step=(10,))
    held = zarr.open_group(path, mode="r")["X"]
    for key in ("indices", "indptr"):
        assert held[key].nchunks_initialized < held[key].nchunks
    np.testing.assert_array_equal(read(path), counts)


@pytest.mark.parametrize("shape", [(90, 40), (100, 50)])
def test_shards_count_as_one(shape, tmp_path, caplog):
    array = zarr.create_array(
        tmp_path / "a", shape=shape, chunks=(10, 7), shards=(30, 14), dtype="f4", config={"order": "C"}
    )
    array[:] = 1
    matrix = dense_matrix(array, "X", None)
    assert sum(block.nnz for _, block in matrix.blocks(0, shape[0], 1000)) == shape[0] * shape[1]
    assert not caplog.records
    next(file for file in (tmp_path / "a" / "c").rglob("*") if file.is_file()).unlink()
    dense_matrix(array, "X", None)
    n_shards = -(-shape[0] // 30) * -(-shape[1] // 14)
    assert f"X: 1 of {n_shards} chunks are not there" in caplog.text


def test_a_dense_zarr_store_that_lacks_a_chunk_is_told(counts, tmp_path, caplog):
    anndata.AnnData(counts.astype(np.float32)).write_zarr(tmp_path / "a.zarr", chunks=(30, 40))
    np.testing.assert_array_equal(read(tmp_path / "a.zarr"), counts)
    assert not caplog.records
    group = zarr.open_group(tmp_path / "a.zarr", mode="r+", use_consolidated=False)
    del group["X"]
    array = group.create_array("X", shape=counts.shape, chunks=(30, 40), dtype="f4")
    array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    array[:60] = counts[:60]
    zarr.consolidate_metadata(tmp_path / "a.zarr")
    np.testing.assert_array_equal(read(tmp_path / "a.zarr")[:60], counts[:60])
    assert "X of a.zarr: 1 of 3 chunks are not there and are read as zeros" in caplog.text


class Spy:
    """An array that notes how many values are asked for at once."""

    def __init__(self, array):
        self.array, self.largest = array, 0
        self.shape, self.dtype, self.chunks = array.shape, array.dtype, array.chunks

    def __getitem__(self, place):
        part = self.array[place]
        self.largest = max(self.largest, part.size)
        return part


@pytest.mark.parametrize("by_gene", [False, True])
@pytest.mark.parametrize("kind", ["hdf5", "zarr"])
@pytest.mark.parametrize("step", [(90, 3), (45, 8), (7, 5), (2, 40)])
def test_no_slice_of_a_dense_matrix_is_large(by_gene, kind, step, counts, tmp_path, monkeypatch, small_lots):
    monkeypatch.setattr(chunks, "SLICE_VALUES", 400)
    values = counts.T.astype(np.float32) if by_gene else counts.astype(np.float32)
    step = step[::-1] if by_gene else step
    with ExitStack() as resources:
        if kind == "hdf5":
            handle = resources.enter_context(h5py.File(tmp_path / "a", "w"))
            array = handle.create_dataset("X", data=values, chunks=step)
        else:
            array = zarr.create_array(tmp_path / "a", data=values, chunks=step)
        spy = Spy(array)
        matrix = dense_matrix(spy, "X", resources, by_gene=by_gene)
        assert matrix.shape == counts.shape
        for start, stop in ((0, 90), (13, 71)):
            found = [block.toarray() for _, block in matrix.blocks(start, stop, 50)]
            np.testing.assert_array_equal(np.concatenate(found), counts[start:stop])
        assert 0 < spy.largest <= 400


def test_a_dense_h5ad_in_tall_chunks(counts, tmp_path, monkeypatch, small_lots):
    monkeypatch.setattr(chunks, "SLICE_VALUES", 400)
    anndata.AnnData(counts.astype(np.float32)).write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as handle:
        attributes = dict(handle["X"].attrs)
        del handle["X"]
        handle.create_dataset("X", data=counts.astype(np.float32), chunks=(90, 2))
        handle["X"].attrs.update(attributes)
    with open_source(tmp_path / "a.h5ad") as source:
        assert not source.matrix.seekable
        assert source.layout == "dense"
    np.testing.assert_array_equal(read(tmp_path / "a.h5ad"), counts)
