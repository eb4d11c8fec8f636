"""Whatever the format, the same counts come out, in any blocks."""

import shutil
from pathlib import Path

import anndata
import numpy as np
import pytest
from scipy import sparse

from geneformer_grn.cells.corpora.shards import CorpusSettings
from geneformer_grn.cells.corpora.tokenizing import write_corpus
from geneformer_grn.cells.opening import open_source, read_anndata
from geneformer_grn.cells.reading import ReadSettings
from geneformer_grn.genes.vocabulary import SPECIAL_TOKENS, GeneVocabulary

FORMATS = {
    "10x v3": lambda write, folder: write.tenx_v3(folder / "a.h5"),
    "10x v2": lambda write, folder: write.tenx_v2(folder / "a.h5"),
    "mtx v3": lambda write, folder: write.mtx(folder / "a"),
    "mtx v2": lambda write, folder: write.mtx(folder / "a", version=2, packed=False),
    "mtx shuffled": lambda write, folder: write.mtx(folder / "a", shuffle=True),
    "mtx by cell": lambda write, folder: write.mtx(folder / "a", by_gene=False),
    "mtx with a prefix": lambda write, folder: write.mtx(folder / "a", prefix="GSM1_"),
    "loom": lambda write, folder: write.loom(folder / "a.loom"),
    "loom, contiguous": lambda write, folder: write.loom(folder / "a.loom", chunks=None, dtype=np.uint16),
    "csv": lambda write, folder: write.text(folder / "a.csv"),
    "csv by cell": lambda write, folder: write.text(folder / "a.csv", by_gene=False),
    "tsv.gz": lambda write, folder: write.text(folder / "a.tsv.gz", delimiter="\t"),
    "as R writes": lambda write, folder: write.text(
        folder / "a.txt", delimiter=" ", corner=False, quoted=True, by_gene=False
    ),
    "semicolons, Windows": lambda write, folder: write.text(folder / "a.csv", delimiter=";", end="\r\n"),
    "decimals": lambda write, folder: write.text(folder / "a.csv.gz", dtype=np.float64, by_gene=False),
}
LIMITED = {"loom, contiguous"}  # uint16: one value does not fit


def expected(counts, name):
    return counts.astype(np.uint16) if name in LIMITED else counts


def check(source, dense):
    """Compare every way of reading with the dense matrix."""
    n = len(dense)
    for start, stop, most in [(0, n, 1 << 22), (0, n, 50), (3, 60, 1), (17, 18, 10), (40, n, 120), (9, 9, 5)]:
        blocks = [*source.blocks(start, stop, max_values=most)]
        assert [first for first, _ in blocks] == list(
            np.cumsum([start, *(block.shape[0] for _, block in blocks)])[:-1]
        )
        assert sum(block.shape[0] for _, block in blocks) == stop - start
        for first, block in blocks:
            assert block.nnz <= most or block.shape[0] == 1
            assert block.dtype == source.dtype
            assert block.format == "csr"
            np.testing.assert_array_equal(block.toarray(), dense[first : first + block.shape[0]])
    rows = np.array([0, 1, 5, 6, 75, n - 1])
    picked = [*source.row_blocks(rows, max_values=60)]
    np.testing.assert_array_equal(np.concatenate([numbers for numbers, _ in picked]), rows)
    np.testing.assert_array_equal(sparse.vstack([block for _, block in picked]).toarray(), dense[rows])
    sample = source.sample(30)
    assert 0 < len(sample) <= 10 * n
    assert np.isin(sample, dense).all()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("lots", ["large", "small"])
def test_formats(name, lots, write, counts, genes, tmp_path, request):
    if lots == "small":
        request.getfixturevalue("small_lots")
    with open_source(FORMATS[name](write, tmp_path)) as source:
        check(source, expected(counts, name))
        assert list(source.obs.index) == [f"cell{i}" for i in range(len(counts))]
        by_symbol = source.kind == "text"
        assert list(source.var.index) == (genes[1] if by_symbol else genes[0])
        assert by_symbol or "gene_symbol" in source.var or "Gene" in source.var
        np.testing.assert_array_equal(source.to_anndata().X.toarray(), expected(counts, name))


LAYOUTS = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": lambda matrix: matrix.toarray()}
DTYPES = [np.uint16, np.int32, np.int64, np.float32, np.float64, bool]
CASES = [
    *((layout, dtype, "large") for layout in LAYOUTS for dtype in DTYPES),
    *(("csc", dtype, "small") for dtype in (np.uint16, np.float64)),
]


@pytest.mark.parametrize(("layout", "dtype", "lots"), CASES)
def test_anndata(layout, dtype, lots, cells, counts, tmp_path, request):
    if lots == "small":
        request.getfixturevalue("small_lots")
    dense = counts.astype(dtype)
    adata = cells.copy()
    adata.X = LAYOUTS[layout](sparse.csr_matrix(dense))
    adata.layers["counts"] = LAYOUTS[layout](sparse.csr_matrix(dense[:, ::-1]))
    adata.raw = adata.copy()
    adata = adata[:, :30].copy()
    adata.write_h5ad(tmp_path / "a.h5ad", compression="gzip")
    wanted = {None: dense[:, :30], "counts": dense[:, ::-1][:, :30], "raw": dense}
    backed = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    for where in (tmp_path / "a.h5ad", adata, backed):
        for layer, values in wanted.items():
            with open_source(where, layer=layer) as source:
                check(source, values)
                assert source.shape == values.shape
                assert len(source.var) == values.shape[1]
                assert source.dtype == (np.uint8 if dtype is bool else dtype)
                assert list(source.obs["donor"]) == list(adata.obs["donor"])
    with open_source(backed[10:70, ::2]) as source:
        np.testing.assert_array_equal(source.to_anndata().X.toarray(), dense[10:70, :30:2])
    backed.file.close()


@pytest.mark.filterwarnings("ignore:Writing zarr v2:UserWarning")
@pytest.mark.parametrize("zipped", [False, True])
def test_zarr(zipped, cells, counts, tmp_path):
    path = tmp_path / "a.zarr"
    cells.layers["by gene"] = sparse.csc_matrix(cells.X)
    cells.raw = cells
    cells.write_zarr(path)
    if zipped:
        path = Path(shutil.make_archive(str(path), "zip", path))
    for layer in (None, "by gene", "raw"):
        with open_source(path, layer=layer) as source:
            assert source.kind == "zarr"
            check(source, counts)


def test_loom_with_wide_chunks_is_put_in_order(write, counts, tmp_path, monkeypatch, small_lots):
    from geneformer_grn.cells.formats import chunks

    monkeypatch.setattr(chunks, "SLICE_VALUES", 100)
    with open_source(write.loom(tmp_path / "a.loom", chunks=(8, 45))) as source:
        assert not source.matrix.seekable
        check(source, counts)


def test_empty_lines_in_text_are_no_rows(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"x,A,B\n\nTP53,1,2\r\n\r\n\nCD4,0,1\n\n")
    with open_source(path) as source:
        assert list(source.var.index) == ["TP53", "CD4"]
        np.testing.assert_array_equal(source.to_anndata().X.toarray(), [[1, 0], [2, 1]])


def test_loom_layers(write, counts, tmp_path):
    with open_source(write.loom(tmp_path / "a.loom"), layer="spliced") as source:
        check(source, 2 * counts)
        assert list(source.obs["donor"][:2]) == ["a", "b"]
        assert "PCA" not in source.obs
        assert [place for place, _, _ in source.elsewhere()] == ["X"]
    adata = read_anndata(tmp_path / "a.loom", layer="spliced")
    np.testing.assert_array_equal(adata.layers["spliced"].toarray(), 2 * counts)


@pytest.mark.parametrize("writer", ["tenx_v3", "mtx"])
def test_features_that_are_no_genes(writer, write, counts, genes, tmp_path, small_lots, caplog):
    types = ["Gene Expression"] * 35 + ["Antibody Capture"] * 5
    caplog.set_level("INFO", logger="geneformer_grn")
    with open_source(getattr(write, writer)(tmp_path / "a", types=types)) as source:
        check(source, counts[:, :35])
        assert list(source.var.index) == genes[0][:35]
    assert "5 Antibody Capture" in caplog.text


def test_old_h5ad(cells, counts, tmp_path):
    """Before anndata 0.7: tables as records, categories in uns, sparse matrices with other attributes."""
    import h5py

    with h5py.File(tmp_path / "a.h5ad", "w") as handle:
        for key, attribute in (("X", "csr"), ("raw.X", "csc")):
            matrix = cells.X if attribute == "csr" else cells.X.tocsc()
            group = handle.create_group(key)
            group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = attribute, matrix.shape
            group["data"], group["indices"], group["indptr"] = matrix.data, matrix.indices, matrix.indptr
        obs = np.array([(n.encode(), i % 2) for i, n in enumerate(cells.obs_names)], "S8,i1")
        obs.dtype.names = ("index", "donor")
        handle["obs"], handle["uns/donor_categories"] = obs, np.array([b"a", b"b"])
        var = np.array([(n.encode(),) for n in cells.var_names], [("index", "S20")])
        handle["var"], handle["raw.var"] = var, var
    for layer in (None, "raw"):
        with open_source(tmp_path / "a.h5ad", layer=layer) as source:
            check(source, counts)
            assert list(source.obs["donor"]) == list(cells.obs["donor"])
            assert list(source.var.index) == list(cells.var_names)


@pytest.fixture(scope="module")
def vocabulary(genes):
    """The genes of the matrix, with medians that make ties and change the order."""
    special = SPECIAL_TOKENS["default"]
    ids = sorted(genes[0])
    symbol_of = dict(zip(*genes, strict=True))
    medians = np.random.default_rng(5).integers(1, 6, len(ids)) / 2
    return GeneVocabulary(
        ensembl_ids=np.array([*special, *ids], dtype=object),
        symbols=np.array([*special, *(symbol_of[gene] for gene in ids)], dtype=object),
        medians=np.concatenate([np.full(len(special), np.nan), medians]),
        is_regulator=np.zeros(len(special) + len(ids), dtype=bool),
        setting="default",
        max_length=64,
    )


def tokens_of(counts, genes, vocabulary):
    """Return the tokens of each cell that holds a gene, by a sort in Python."""
    token_of = [vocabulary.token_of[gene] for gene in genes[0]]
    cells = []
    for row in counts.tolist():
        held = [
            (-count / vocabulary.medians[token], token)
            for count, token in zip(row, token_of, strict=True)
            if count
        ]
        if held:
            cells.append([2, *(token for _, token in sorted(held)), 3])
    return cells


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_tokens(name, write, vocabulary, counts, genes, tmp_path):
    expected_tokens = tokens_of(expected(counts, name), genes, vocabulary)
    path = FORMATS[name](write, tmp_path)
    settings = CorpusSettings(read=ReadSettings(drop_empty=True), part_cells=40)
    corpus = write_corpus([path], tmp_path / "corpus", vocabulary, settings, threads=1)
    assert [corpus.cell(index).tolist() for index in range(len(corpus))] == expected_tokens
    assert corpus.manifest["n_dropped_empty"] == 90 - len(expected_tokens)


@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
@pytest.mark.parametrize("place", ["X", "layer", "raw"])
def test_every_place_and_layout_gives_the_same_tokens(
    layout, place, cells, vocabulary, counts, genes, tmp_path
):
    expected_tokens = tokens_of(counts, genes, vocabulary)
    matrix = cells.X.toarray() if layout == "dense" else cells.X.asformat(layout)
    adata = cells.copy()
    if place == "raw":
        adata.X = matrix
        adata.raw = adata
    if place == "layer":
        adata.layers["counts"] = matrix
    adata.X = matrix if place == "X" else adata.X * 0.5
    adata.write_h5ad(tmp_path / "cells.h5ad")
    layer = {"X": None, "layer": "counts", "raw": "raw"}[place]
    settings = CorpusSettings(read=ReadSettings(drop_empty=True, layer=layer))
    corpus = write_corpus([tmp_path / "cells.h5ad"], tmp_path / "corpus", vocabulary, settings, threads=1)
    assert [corpus.cell(index).tolist() for index in range(len(corpus))] == expected_tokens
