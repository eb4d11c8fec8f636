"""Files that are damaged, or no count files, are refused by one ValueError that names them."""

import gzip

import anndata
import h5py
import numpy as np
import pytest
from scipy import sparse

from geneformer_grn.cells.opening import open_source


def read(path, **kwargs):
    with open_source(path, **kwargs) as source:
        return [*source.blocks(max_values=100)]


def change(**arrays):
    """Return a function that replaces arrays of X."""

    def apply(handle):
        for name, function in arrays.items():
            values = function(handle[f"X/{name}"][()])
            del handle[f"X/{name}"]
            handle[f"X/{name}"] = values

    return apply


def put(place, value):
    def apply(values):
        values[place] = value
        return values

    return apply


def without(key):
    def apply(handle):
        del handle[key]

    return apply


def resize(handle):
    handle["X"].attrs["shape"] = (91, 40)
    change(indptr=lambda pointers: np.append(pointers, pointers[-1]))(handle)


HARM = {
    "an index too large": (change(indices=put(17, 40)), "holds the index 40, where 0 to 39"),
    "an index below zero": (change(indices=put(17, -1)), "holds the index -1"),
    "pointers that descend": (change(indptr=put(20, 0)), "do not ascend"),
    "a pointer beyond the values": (change(indptr=put(20, 10**6)), "do not ascend"),
    "pointers that end early": (change(indptr=put(-1, 5)), "but it holds .* values"),
    "pointers missing": (change(indptr=lambda pointers: pointers[:-1]), "90 entries where .* needs 91"),
    "values missing": (change(data=lambda values: values[:-3]), "but it holds .* values"),
    "no indices": (without("X/indices"), "indices missing"),
    "no index of obs": (without("obs/_index"), "cannot be read|probably damaged"),
    "more rows than cells": (resize, "X is 91 × 40, but there are 90 cells and 40 genes"),
    "text for numbers": (
        change(data=lambda values: np.array([b"a"] * len(values))), r"holds \|S1 values; raw counts"
    ),
    "an encoding to come": (
        lambda handle: handle["X"].attrs.update({"encoding-type": "later_matrix"}), "needs a newer anndata"
    ),
    "an obs column to come": (
        lambda handle: handle["obs/donor"].attrs.update({"encoding-type": "later"}), "a newer anndata"
    ),
}  # fmt: skip


@pytest.mark.parametrize("harm", HARM)
def test_h5ad(harm, cells, tmp_path):
    path = tmp_path / "a.h5ad"
    cells.write_h5ad(path)
    apply, message = HARM[harm]
    with h5py.File(path, "r+") as handle:
        apply(handle)
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert "a.h5ad" in str(caught.value)


@pytest.mark.parametrize("harm", ["an index too large", "pointers that descend", "values missing"])
def test_h5ad_by_gene(harm, cells, tmp_path):
    path = tmp_path / "a.h5ad"
    cells.X = sparse.csc_matrix(cells.X)
    cells.write_h5ad(path)
    change_it = {"an index too large": change(indices=put(17, 90))}.get(harm, HARM[harm][0])
    with h5py.File(path, "r+") as handle:
        change_it(handle)
    with pytest.raises(ValueError, match=r"a\.h5ad is damaged"):
        read(path)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
@pytest.mark.parametrize("writer", ["h5ad", "10x", "loom"])
def test_truncated_hdf5(writer, share, cells, write, tmp_path):
    path = tmp_path / "a"
    {"h5ad": cells.write_h5ad, "10x": write.tenx_v3, "loom": write.loom}[writer](path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="a is truncated or damaged"):
        read(path)


def test_a_broken_chunk_is_found_on_reading(cells, tmp_path):
    path = tmp_path / "a.h5ad"
    cells.write_h5ad(path, compression="gzip")
    with h5py.File(path, "r") as handle:
        chunk = handle["X/data"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)
    with open_source(path) as source, pytest.raises(ValueError, match=r"a\.h5ad cannot be read to its end"):
        [*source.blocks()]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["x,A,B", "TP53,1,2", "CD4,3"], "line 3 has 1 values, where the header names 2"),
        (["x,A,B", "TP53,1,2", "CD4,3,4,5"], "line 3 has 3 values"),
        (["# a comment", "x,A,B", "TP53,1,2", "CD4,3,many"], "line 4, column 3 holds 'many', where a number"),
        (["x,A,B", "TP53,1,2", "", "CD4,,1", ""], "line 4, column 2 holds ''"),
        (["x;A;B", 'TP53;1,5;2'], "holds '1,5'"),
        (["one", "two"], "no table of counts"),
        (["x,A,B"], "no table of counts"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("packed", [False, True])
def test_text(lines, message, packed, tmp_path):
    path = tmp_path / "a.csv"
    content = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_truncated_gzip(share, write, tmp_path):
    path = write.text(tmp_path / "a.csv.gz")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="truncated or damaged"):
        read(path)


def test_mtx(write, tmp_path):
    folder = write.mtx(tmp_path / "a", packed=False)
    matrix = folder / "matrix.mtx"
    whole = matrix.read_text()
    lines = whole.splitlines(keepends=True)

    def refused(content, message):
        matrix.write_text(content)
        with pytest.raises(ValueError, match=message):
            read(folder)

    refused("".join(lines[:-1]), "truncated or damaged: .* entries are there")
    refused(whole.replace("integer general", "pattern general"), "is pattern general")
    refused(whole.replace("coordinate", "array"), "no sparse MatrixMarket file")
    refused("".join([*lines[:5], "41 1 1\n", *lines[6:]]), "names row 41 of 40")
    refused("".join([*lines[:5], "1 0 1\n", *lines[6:]]), "names column 0 of 90")
    refused("".join([*lines[:5], "1 1\n", *lines[6:]]), "line 6 has 2 fields; 3 are needed")
    refused("".join([*lines[:5], "1 1 one\n", *lines[6:]]), "line 6, column 3 holds 'one'")
    refused(whole.replace("\n40 90 ", "\n40 91 ", 1), "do not belong together")
    matrix.write_text(whole)
    (folder / "features.tsv").unlink()
    with pytest.raises(ValueError, match=r"no features.tsv or genes.tsv"):
        read(folder)


def test_tenx_h5(write, tmp_path):
    path = write.tenx_v2(tmp_path / "a.h5", genomes=("hg19", "mm10"))
    with pytest.raises(ValueError, match="choose by --layer one of its genomes: hg19, mm10"):
        read(path)
    assert len(read(path, layer="mm10")) > 1
    with pytest.raises(ValueError, match="no genome 'mm9'"):
        read(path, layer="mm9")
    path = write.tenx_v3(tmp_path / "b.h5", types=["Antibody Capture"] * 40)
    with pytest.raises(ValueError, match="no features of type 'Gene Expression', only 40 Antibody Capture"):
        read(path)
    path = write.tenx_v3(tmp_path / "c.h5")
    with pytest.raises(ValueError, match="no layer 'counts'"):
        read(path, layer="counts")
    with h5py.File(path, "r+") as handle:
        del handle["matrix/features/name"]
    with pytest.raises(ValueError, match="cannot be read as 10x"):
        read(path)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_nothing_inside(shape, layout, tmp_path):
    adata = anndata.AnnData(layout(np.zeros(shape, np.float32)))
    adata.write_h5ad(tmp_path / "a.h5ad")
    for where in (tmp_path / "a.h5ad", adata):
        with pytest.raises(ValueError, match=rf"holds {shape[0]} cells and {shape[1]} genes"):
            read(where)


def test_no_room_for_temporary_files(cells, tmp_path, monkeypatch, small_lots):
    cells.X = sparse.csc_matrix(cells.X)
    cells.write_h5ad(tmp_path / "a.h5ad")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="Set TMPDIR to a larger disk"):
        read(tmp_path / "a.h5ad")


def test_temporary_files_go_with_the_source(cells, tmp_path, monkeypatch, small_lots):
    cells.X = sparse.csc_matrix(cells.X)
    cells.write_h5ad(tmp_path / "a.h5ad")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    with open_source(tmp_path / "a.h5ad") as source:
        [*source.blocks()]
        assert [*(tmp_path / "temporary").iterdir()]
    assert not [*(tmp_path / "temporary").iterdir()]
