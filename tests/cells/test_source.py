"""One opened matrix: what it states of itself, which rows it gives, and in how much memory."""

import subprocess
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from geneformer_grn.cells.opening import open_source


def test_what_a_source_states(tiny_adata, tmp_path):
    adata = tiny_adata.copy()
    adata.uns["license"], adata.uns["geneformer_grn"] = "CC0", {"map_genes": {"n": 1}}
    adata.layers["counts"] = sparse.csc_matrix(adata.X)
    adata.write_h5ad(tmp_path / "a.h5ad")
    for where, name in ((tmp_path / "a.h5ad", "a.h5ad"), (adata, "the AnnData")):
        with open_source(where) as source:
            assert source.stated == {"license": "CC0", "source": "not stated"}
            assert source.mapped
            assert (source.name, source.label, source.layout) == (name, "X", "csr")
            assert source.nnz == adata.X.nnz
            assert [(place, option) for place, option, _ in source.elsewhere()] == [
                ("layer 'counts'", "pass --layer counts")
            ]
            assert all(np.isin(sample(), adata.X.data).all() for _, _, sample in source.elsewhere())
    with open_source(tiny_adata) as source:
        assert not source.mapped


def test_an_anndata_is_left_unchanged(tiny_adata):
    adata = anndata.AnnData(tiny_adata.X.copy(), obs=pd.DataFrame(index=pd.Index(list(map(str, range(80))))))
    before = adata.copy()
    with open_source(adata) as source:
        copy = source.to_anndata()
    copy.obs["new"] = 1
    copy.X.data[:] = 0
    assert "new" not in adata.obs
    assert (adata.X != before.X).nnz == 0


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (6, 5), (0, 81)])
def test_rows_that_are_not_there(start, stop, tiny_adata):
    with open_source(tiny_adata) as source, pytest.raises(ValueError, match=f"rows {start} to {stop}"):
        next(source.blocks(start, stop))


def test_calls_that_make_no_sense(tiny_adata):
    with open_source(tiny_adata) as source:
        with pytest.raises(ValueError, match="at least 1 is needed"):
            next(source.blocks(max_values=0))
        with pytest.raises(ValueError, match="must ascend"):
            next(source.row_blocks(np.array([3, 2])))
        assert [*source.row_blocks(np.array([], dtype=int))] == []


def test_far_rows_are_read_without_those_between(tiny_adata, tmp_path):
    """560 cells, of which the index of one between the chosen ones is broken on disk."""
    import h5py

    big = anndata.AnnData(sparse.vstack([tiny_adata.X] * 7, format="csr"))
    big.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as handle:
        handle["X/indices"][int(handle["X/indptr"][250])] = 10**6
    rows = np.array([1, 2, 500, 501])
    with open_source(tmp_path / "a.h5ad") as source:
        picked = [*source.row_blocks(rows)]
    assert len(picked) == 1
    assert (picked[0][1] != big.X[rows]).nnz == 0


# Not ru_maxrss, which a new process inherits from the one that started it.
_READ = """
import re, sys
from pathlib import Path
from geneformer_grn.cells.opening import open_source
with open_source(sys.argv[1]) as source:
    total = sum(float(block.data.sum(dtype="f8")) for _, block in source.blocks())
print(total, re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_large_matrix_by_gene_needs_little_memory(tmp_path):
    """40 M values (320 MB as they are; converting them at once would take 640 MB more) in 0.9 GB in all."""
    n_cells, n_genes, per_gene = 20_000, 10_000, 4_000
    generator = np.random.default_rng(0)
    one = np.sort(generator.choice(n_cells, per_gene, replace=False)).astype(np.int32)
    matrix = sparse.csc_matrix(
        (
            generator.integers(1, 300, n_genes * per_gene).astype(np.float32),
            np.tile(one, n_genes),
            np.arange(n_genes + 1, dtype=np.int64) * per_gene,
        ),
        shape=(n_cells, n_genes),
    )
    anndata.AnnData(matrix).write_h5ad(tmp_path / "a.h5ad")
    run = subprocess.run(
        [sys.executable, "-c", _READ, str(tmp_path / "a.h5ad")], capture_output=True, text=True, check=True
    )
    total, peak = run.stdout.split()
    assert float(total) == float(matrix.data.sum(dtype=np.float64))
    assert int(peak) < 900_000
