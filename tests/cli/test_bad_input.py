"""What each bad input says: one case for each row of the table in docs/input.md, by the verbs it concerns."""

from __future__ import annotations

import dataclasses
import gzip
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from geneformer_grn.genes.table import load_gene_table

READERS = ("validate", "tokenize", "embed", "run", "vocab build")
WITH_VOCABULARY = ("validate", "tokenize", "embed", "run")
LENIENT = ("validate", "tokenize")  # which add repeated genes up and leave empty cells out
STRICT = ("embed", "run")
N_CELLS = 40


@dataclass(frozen=True)
class Case:
    """A row of the table: what is made, what is said of it, and by which verbs."""

    make: Callable[[Path, anndata.AnnData], list]
    says: str
    verbs: tuple[str, ...] = READERS
    warns: str | None = None


CASES: dict[str, Case] = {}


def case(row: str, says: str, verbs: tuple[str, ...] = READERS, warns: str | None = None):
    """Register the function that makes the input of a row and returns the FILE and options of the call."""

    def register(make):
        assert row not in CASES
        CASES[row] = Case(make, says, verbs, warns)
        return make

    return register


def written(adata, folder, name="cells.h5ad"):
    adata.write_h5ad(folder / name)
    return folder / name


def dense(adata):
    return adata.X.toarray()


def log_normalised(values):
    return np.log1p(1e4 * values / np.maximum(values.sum(1, keepdims=True), 1)).astype(np.float32)


# Values


@case(
    "log-normalised values, raw counts in a layer",
    "Raw counts seem to be in layer 'counts': pass --layer counts",
)
def _(folder, adata):
    adata.layers["counts"] = adata.X.copy()
    adata.X = sparse.csr_matrix(log_normalised(dense(adata)))
    return [written(adata, folder)]


@case("log-normalised values, raw counts in `raw`", "Raw counts seem to be in raw: pass --layer raw")
def _(folder, adata):
    adata.raw = adata.copy()
    adata.X = log_normalised(dense(adata))
    return [written(adata, folder)]


@case(
    "log-normalised values and nothing else",
    "looks log-normalised; raw counts are needed. Without them, pass --allow-normalised",
)
def _(folder, adata):
    adata.X = sparse.csr_matrix(log_normalised(dense(adata)))
    return [written(adata, folder)]


@case("normalised values that are no logarithms", "looks normalised; raw counts are needed")
def _(folder, adata):
    adata.X = sparse.csr_matrix(np.expm1(log_normalised(dense(adata))) * 1.5)
    return [written(adata, folder)]


@case("a fraction in the last cell only", "holds fractions (first 2.5")
def _(folder, adata):
    adata.X.data[-1] = 2.5
    return [written(adata, folder)]


@case("scaled values (negative ones)", "holds negative values (smallest -")
def _(folder, adata):
    values = dense(adata)
    adata.X = ((values - values.mean(0)) / values.std(0).clip(0.1)).astype(np.float32)
    return [written(adata, folder)]


@case(
    "scaled values, raw counts in `raw`",
    "Raw counts are needed. Raw counts seem to be in raw: pass --layer raw",
)
def _(folder, adata):
    adata.raw = adata.copy()
    values = dense(adata)
    adata.X = ((values - values.mean(0)) / values.std(0).clip(0.1)).astype(np.float32)
    return [written(adata, folder)]


@case("NaN among the values", "holds NaN or infinite values; raw counts are needed")
def _(folder, adata):
    adata.X.data[7] = np.nan
    return [written(adata, folder)]


@case("an infinite value", "holds NaN or infinite values; raw counts are needed")
def _(folder, adata):
    adata.X.data[7] = np.inf
    return [written(adata, folder)]


@case("a count above 4,294,967,295 with `--keep-counts`", "is too large to keep", ("tokenize",))
def _(folder, adata):
    adata.X = adata.X.astype(np.float64)
    adata.X.data[3] = 2.0**33
    return [written(adata, folder), "--keep-counts"]


@case("a matrix of text", "holds object values; raw counts are numbers")
def _(folder, adata):
    path = written(adata, folder)
    with h5py.File(path, "a") as handle:
        del handle["X"]
        handle["X"] = np.full(adata.shape, "3", dtype=object)
        handle["X"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return [path]


# Cells


@case("no cells", "holds 0 cells and 60 genes")
def _(folder, adata):
    return [written(adata[:0].copy(), folder)]


@case("no genes", f"holds {N_CELLS} cells and 0 genes")
def _(folder, adata):
    return [written(adata[:, :0].copy(), folder)]


@case("empty cells", f"2 of {N_CELLS} cells are empty", STRICT)
def _(folder, adata):
    values = dense(adata)
    values[[3, 5]] = 0
    adata.X = sparse.csr_matrix(values)
    return [written(adata, folder)]


@case("empty cells with `--refuse-empty`", f"1 of {N_CELLS} cells are empty", LENIENT)
def _(folder, adata):
    values = dense(adata)
    values[3] = 0
    adata.X = sparse.csr_matrix(values)
    return [written(adata, folder), "--refuse-empty"]


@case("only empty cells", f"none of its {N_CELLS} cells has a count of a known gene", WITH_VOCABULARY)
def _(folder, adata):
    adata.X = sparse.csr_matrix(adata.shape, dtype=np.float32)
    return [written(adata, folder)]


@case("`filter_pass` is 0 in every cell", "no cell has obs['filter_pass'] == 1")
def _(folder, adata):
    adata.obs["filter_pass"] = 0
    return [written(adata, folder)]


@case("fewer genes or counts than asked for in every cell", "no cell is left", ("tokenize",))
def _(folder, adata):
    return [written(adata, folder), "--min-genes", "61"]


@case(
    "total counts that are no positive numbers",
    "obs['depth'] is not a positive number in 1 of",
    WITH_VOCABULARY,
)
def _(folder, adata):
    adata.obs["depth"] = [0.0, *[9.0] * (N_CELLS - 1)]
    return [written(adata, folder), "--counts-column", "depth"]


@case(
    "`--where` names a column that is not there",
    "--where asks for 'n_gene', which is no obs column; columns there: cell_type, depth",
)
def _(folder, adata):
    return [written(adata, folder), "--where", "n_gene > 500"]


@case("`--where` is no expression", "is no expression over obs columns; write such as")
def _(folder, adata):
    return [written(adata, folder), "--where", "depth >"]


@case("`--where` calls something", "holds a Call; only columns, constants")
def _(folder, adata):
    return [written(adata, folder), "--where", "__import__('os').system('touch hacked')"]


@case("`--where` asks for a Python variable", "--where '@folder == 1' is no expression")
def _(folder, adata):
    return [written(adata, folder), "--where", "@folder == 1"]


@case("`--where` does not say yes or no", "does not say yes or no for each cell")
def _(folder, adata):
    return [written(adata, folder), "--where", "depth + 1"]


@case("`--where` compares text with a number", "cannot be computed")
def _(folder, adata):
    adata.obs["donor"] = ["d1"] * N_CELLS
    return [written(adata, folder), "--where", "donor > 3"]


@case("no cell fits `--where`", f"none of its {N_CELLS} cells fits --where")
def _(folder, adata):
    return [written(adata, folder), "--where", "depth > 10"]


# Genes


@case("no known gene", "0 of 60 genes match")
def _(folder, adata):
    adata.var = pd.DataFrame(index=[f"contig_{number}" for number in range(60)])
    return [written(adata, folder)]


@case("mouse Ensembl IDs without `--species mouse`", "0 of 60 genes match")
def _(folder, adata):
    human_of = load_gene_table().human_of_mouse
    mouse_of = {human: mouse for mouse, human in human_of.items() if mouse.startswith("ENSMUSG")}
    adata.var = pd.DataFrame(index=[mouse_of[name] for name in adata.var_names])
    return [written(adata, folder)]


@case("a species that is not known", "species 'rat' is unknown; use human or mouse")
def _(folder, adata):
    return [written(adata, folder), "--species", "rat"]


@case(
    "more than 80 % of the counts in unknown genes",
    "of its counts are in genes that the vocabulary does not know (60 of 61 genes match)",
    WITH_VOCABULARY,
)
def _(folder, adata):
    other = anndata.AnnData(
        X=sparse.csr_matrix(np.full((N_CELLS, 1), 5000, dtype=np.float32)),
        obs=adata.obs, var=pd.DataFrame(index=["ERCC-00002"]),
    )  # fmt: skip
    return [written(anndata.concat([adata, other], axis=1, merge="same"), folder)]


@case("an Ensembl ID that occurs twice", "occurs 2 times in var_names (1 duplicated Ensembl IDs)", STRICT)
def _(folder, adata):
    adata.var_names = [adata.var_names[1], *adata.var_names[1:]]
    return [written(adata, folder)]


@case("an Ensembl ID that occurs twice with `--refuse-duplicates`", "occurs 2 times in var_names", LENIENT)
def _(folder, adata):
    adata.var_names = [adata.var_names[1], *adata.var_names[1:]]
    return [written(adata, folder), "--refuse-duplicates"]


# Names that are not there


@case("`--layer` that is not there", "there is no layer 'counts'; layers there: spliced")
def _(folder, adata):
    adata.layers["spliced"] = adata.X
    return [written(adata, folder), "--layer", "counts"]


@case("`--layer` of a file without layers", "there is no layer 'counts'; the file has no layers")
def _(folder, adata):
    return [table(adata, folder / "cells.csv"), "--layer", "counts"]


@case("`--gene-column` that is not there", "var has no column 'symbols'; columns there: gene_symbol")
def _(folder, adata):
    return [written(adata, folder), "--gene-column", "symbols"]


@case(
    "`--counts-column` that is not there",
    "obs has no column 'n_umi'; columns there: cell_type, depth",
    WITH_VOCABULARY,
)
def _(folder, adata):
    return [written(adata, folder), "--counts-column", "n_umi"]


@case(
    "`--columns` that are not there",
    "obs has no column 'donor'; columns there: cell_type, depth",
    ("tokenize",),
)
def _(folder, adata):
    return [written(adata, folder), "--columns", "cell_type,donor"]


@case("`--groups` that is not there", "'donor'", ("run",))
def _(folder, adata):
    return [written(adata, folder), "--groups", "donor"]


# Files of another kind


@case("no such file", "cells.h5ad: no such file")
def _(folder, adata):
    return [folder / "cells.h5ad"]


@case("an empty file", "is not an .h5ad file (not HDF5 at all; it is empty)")
def _(folder, adata):
    (folder / "cells.h5ad").touch()
    return [folder / "cells.h5ad"]


@case("a PDF named .h5ad", "is not an .h5ad file (not HDF5 at all)")
def _(folder, adata):
    (folder / "cells.h5ad").write_bytes(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n")
    return [folder / "cells.h5ad"]


@case("a web page in the place of a download", "line 3 has 0 values, where the header names 1")
def _(folder, adata):
    (folder / "cells.csv").write_text('<!DOCTYPE html>\n<html lang="en">\n<title>403</title>\n')
    return [folder / "cells.csv"]


@case("an R object (.rds, .rda, Seurat)", "is no count file; accepted are .h5ad")
def _(folder, adata):
    (folder / "seurat.rds").write_bytes(gzip.compress(b"X\n\0\0\0\3\0\4\3\1\0\3\5\0" + bytes(range(256))))
    return [folder / "seurat.rds"]


@case("a Python pickle", "is no count file; accepted are .h5ad")
def _(folder, adata):
    (folder / "cells.pkl").write_bytes(pickle.dumps({"cells": list(range(300)), "x": b"\0"}))
    return [folder / "cells.pkl"]


@case("a spreadsheet (.xlsx)", "is a zip archive, but no zarr store")
def _(folder, adata):
    with zipfile.ZipFile(folder / "cells.xlsx", "w") as packed:
        packed.writestr("[Content_Types].xml", "<Types/>")
        packed.writestr("xl/workbook.xml", "<workbook/>")
    return [folder / "cells.xlsx"]


@case("an HDF5 file of something else", "is an HDF5 file, but neither .h5ad nor 10x nor loom")
def _(folder, adata):
    with h5py.File(folder / "images.h5", "w") as handle:
        handle["images/raw"] = np.zeros((2, 8, 8), np.uint8)
    return [folder / "images.h5"]


@case("an AnnData of obs alone", "is an HDF5 file, but neither .h5ad nor 10x nor loom")
def _(folder, adata):
    path = written(adata, folder)
    with h5py.File(path, "a") as handle:
        for key in set(handle) - {"obs"}:
            del handle[key]
    return [path]


@case(
    "an AnnData without `X`", "X is empty; name the layer with raw counts by --layer (layers there: counts)"
)
def _(folder, adata):
    adata.layers["counts"], adata.X = adata.X.copy(), None
    return [written(adata, folder)]


@case("a zarr store that is no AnnData", "is a zarr store, but not of an AnnData")
def _(folder, adata):
    import zarr

    zarr.open_group(folder / "images.zarr", mode="w").create_array("image", shape=(4, 4), dtype="u1")
    return [folder / "images.zarr"]


@case(
    "a folder without count files",
    "holds no count files; accepted are",
    ("validate", "tokenize", "vocab build"),
)
def _(folder, adata):
    (folder / "empty").mkdir()
    (folder / "empty" / "notes.docx").write_text("notes")
    return [folder / "empty"]


@case(
    "a folder where one file is needed",
    "is a folder, but neither a zarr store nor one with a matrix.mtx(.gz)",
    STRICT,
)
def _(folder, adata):
    (folder / "files").mkdir()
    written(adata, folder / "files")
    return [folder / "files"]


@case("a file that this user may not read", "may not be read by this user", WITH_VOCABULARY)
def _(folder, adata):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    path = written(adata, folder)
    path.chmod(0)
    return [path]


# Damage


def cut(path, share=0.6):
    """Cut off the end of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


@case("a truncated .h5ad", "is truncated or damaged")
def _(folder, adata):
    return [cut(written(adata, folder))]


@case("a truncated 10x .h5", "is truncated or damaged")
def _(folder, adata):
    return [cut(tenx_h5(adata, folder / "matrix.h5"))]


@case("a truncated loom file", "is truncated or damaged")
def _(folder, adata):
    return [cut(loom(adata, folder / "cells.loom"))]


@case("a truncated .csv.gz", "is truncated or damaged")
def _(folder, adata):
    return [cut(table(adata, folder / "cells.csv.gz"), 0.9)]


@case("a truncated matrix.mtx.gz", "is truncated or damaged")
def _(folder, adata):
    tenx_mtx(adata, folder / "sample")
    cut(folder / "sample" / "matrix.mtx.gz", 0.9)
    return [folder / "sample"]


@case("indices outside of the matrix", "is damaged: it holds the index 60, where 0 to 59 are possible")
def _(folder, adata):
    path = written(adata, folder)
    with h5py.File(path, "a") as handle:
        handle["X/indices"][9] = 60
    return [path]


@case("rows that do not follow each other", "is damaged: its row pointers (indptr) do not ascend")
def _(folder, adata):
    path = written(adata, folder)
    with h5py.File(path, "a") as handle:
        handle["X/indptr"][5] = 0
    return [path]


@case("a zarr store that lacks chunks", "1 of 1 chunks of its data are missing")
def _(folder, adata):
    adata.write_zarr(folder / "cells.zarr")
    (chunk,) = [path for path in (folder / "cells.zarr" / "X" / "data").rglob("0") if path.is_file()]
    chunk.unlink()
    return [folder / "cells.zarr"]


@case("a file of a newer anndata", "it needs a newer anndata")
def _(folder, adata):
    path = written(adata, folder)
    with h5py.File(path, "a") as handle:
        handle["obs/depth"].attrs["encoding-version"] = "9.0.0"
    return [path]


# 10x folders


@case("a 10x folder without barcodes", "has no barcodes.tsv (or .gz) beside it; its rows have no names")
def _(folder, adata):
    tenx_mtx(adata, folder / "sample")
    (folder / "sample" / "barcodes.tsv.gz").unlink()
    return [folder / "sample"]


@case("a 10x folder without features", "has no features.tsv or genes.tsv (or .gz) beside it")
def _(folder, adata):
    tenx_mtx(adata, folder / "sample")
    (folder / "sample" / "features.tsv.gz").unlink()
    return [folder / "sample"]


@case("a 10x folder whose tables are of another matrix", "the files do not belong together")
def _(folder, adata):
    tenx_mtx(adata, folder / "sample")
    (folder / "sample" / "barcodes.tsv.gz").write_bytes(gzip.compress(b"cell1\ncell2\n"))
    return [folder / "sample"]


@case("a folder of several matrix.mtx", "holds 2 matrix.mtx files; name one of them", STRICT)
def _(folder, adata):
    for prefix in ("a_", "b_"):
        tenx_mtx(adata, folder / "samples", prefix=prefix)
    return [folder / "samples"]


@case("a matrix.mtx with another header", "is no sparse MatrixMarket file: it begins with")
def _(folder, adata):
    tenx_mtx(adata, folder / "sample", head="%%MatrixMarket matrix array real general")
    return [folder / "sample"]


# Tables


@case("a table with text among the numbers", "line 3, column 2 holds 'high', where a number is needed")
def _(folder, adata):
    path = table(adata, folder / "cells.csv")
    lines = path.read_text().splitlines()
    name, _, *rest = lines[2].split(",")
    lines[2] = ",".join([name, "high", *rest])
    path.write_text("\n".join(lines))
    return [path]


@case("a table with missing values", "line 3, column 2 holds '', where a number is needed")
def _(folder, adata):
    path = table(adata, folder / "cells.csv")
    lines = path.read_text().splitlines()
    name, _, *rest = lines[2].split(",")
    lines[2] = ",".join([name, "", *rest])
    path.write_text("\n".join(lines))
    return [path]


@case("a table with ragged lines", f"line 4 has {N_CELLS - 1} values, where the header names {N_CELLS}")
def _(folder, adata):
    path = table(adata, folder / "cells.csv")
    lines = path.read_text().splitlines()
    lines[3] = lines[3].rpartition(",")[0]
    path.write_text("\n".join(lines))
    return [path]


@case(
    "a table without names",
    "0 of 39 genes match",
    warns="neither lines nor columns look more like genes",
)
def _(folder, adata):
    path = folder / "cells.tsv"
    np.savetxt(path, dense(adata), fmt="%d", delimiter="\t")
    return [path]


@case("a text that is no table", "is no table of counts")
def _(folder, adata):
    (folder / "notes.txt").write_text("These cells were sorted.\nAsk Anna.\n")
    return [folder / "notes.txt"]


# The call


@case("the same file twice", "its cells would count twice", ("tokenize", "vocab build"))
def _(folder, adata):
    (folder / "again.h5ad").symlink_to("cells.h5ad")
    return [written(adata, folder), folder / "again.h5ad"]


@case("`--out` is a file", "notes.txt", ("tokenize", "embed", "run", "vocab build"))
def _(folder, adata):
    (folder / "notes.txt").write_text("notes")
    return [written(adata, folder), "--out", folder / "notes.txt"]


@case("`--out` is a folder of something else", "other", ("tokenize",))
def _(folder, adata):
    (folder / "other").mkdir()
    (folder / "other" / "notes.txt").write_text("notes")
    return [written(adata, folder), "--out", folder / "other"]


@case("`--out` where this user may not write", "locked", ("tokenize", "embed", "run", "vocab build"))
def _(folder, adata):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (folder / "locked").mkdir(mode=0o500)
    return [written(adata, folder), "--out", folder / "locked" / "out.h5ad"]


@case("a vocabulary that is not there", "none", LENIENT)
def _(folder, adata):
    return [written(adata, folder), "--vocabulary", folder / "none"]


@case("a model that is not there", "no checkpoint", ("embed", "run"))
def _(folder, adata):
    return [written(adata, folder), "--model", "no-such-model"]


@case("`--model` and `--vocabulary`", "both name a vocabulary; give one of them", LENIENT)
def _(folder, adata):
    return [written(adata, folder), "--model", "mini"]


# Writers of other formats


def tenx_h5(adata, path):
    matrix = sparse.csr_matrix(adata.X).astype(np.int32)
    with h5py.File(path, "w") as handle:
        group = handle.create_group("matrix")
        group["data"], group["indices"], group["indptr"] = matrix.data, matrix.indices, matrix.indptr
        group["shape"], group["barcodes"] = np.array(matrix.shape[::-1]), np.array(adata.obs_names, "S")
        group["features/id"] = np.array(adata.var_names, "S")
        group["features/name"] = np.array(adata.var["gene_symbol"], "S")
        group["features/feature_type"] = np.array(["Gene Expression"] * adata.n_vars, "S")
    return path


def loom(adata, path):
    with h5py.File(path, "w") as handle:
        handle["matrix"] = dense(adata).T.astype(np.int32)
        handle["row_attrs/Accession"] = np.array(adata.var_names, "S")
        handle["col_attrs/CellID"] = np.array(adata.obs_names, "S")
    return path


def table(adata, path):
    frame = pd.DataFrame(dense(adata).T.astype(int), index=adata.var_names, columns=adata.obs_names)
    frame.to_csv(path)
    return path


def tenx_mtx(adata, folder, *, prefix="", head="%%MatrixMarket matrix coordinate integer general"):
    folder.mkdir(exist_ok=True)
    matrix = sparse.coo_matrix(sparse.csr_matrix(adata.X).T)
    entries = zip(matrix.row + 1, matrix.col + 1, matrix.data.astype(int), strict=True)
    texts = {
        "matrix.mtx": [
            head,
            f"{adata.n_vars} {adata.n_obs} {matrix.nnz}",
            *(f"{r} {c} {v}" for r, c, v in entries),
        ],
        "features.tsv": [f"{gene}\t{gene}\tGene Expression" for gene in adata.var_names],
        "barcodes.tsv": list(adata.obs_names),
    }
    for name, lines in texts.items():
        (folder / f"{prefix}{name}.gz").write_bytes(gzip.compress("\n".join([*lines, ""]).encode()))
    return folder


# The tests


@pytest.fixture(scope="module")
def vocabulary(tiny_vocabulary):
    """The tiny vocabulary of 60 real genes that have mouse orthologs."""
    table = load_gene_table()
    mouse = {human for name, human in table.human_of_mouse.items() if name.startswith("ENSMUSG")}
    genes = sorted(gene for gene in mouse if gene in table.symbol_of)[:60]
    special = list(tiny_vocabulary.ensembl_ids[: tiny_vocabulary.n_special])
    return dataclasses.replace(
        tiny_vocabulary,
        ensembl_ids=np.array([*special, *genes], dtype=object),
        symbols=np.array([*special, *(table.symbol_of[gene] for gene in genes)], dtype=object),
    )


@pytest.fixture(scope="module")
def checkpoint(vocabulary, tmp_path_factory):
    from geneformer_grn.model.encoder import ModelConfig, new_model, save_checkpoint

    config = ModelConfig(n_layers=1, hidden_size=16, n_heads=2, ffn_size=16)
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    save_checkpoint(new_model(config, vocabulary, seed=0), vocabulary, folder)
    return folder


@pytest.fixture
def adata(tiny_adata, vocabulary):
    """40 good cells of those genes."""
    cells = tiny_adata[:N_CELLS].copy()
    cells.var_names = vocabulary.ensembl_ids[vocabulary.n_special :].astype(str)
    cells.var["gene_symbol"] = vocabulary.symbols[vocabulary.n_special :].astype(str)
    cells.obs["depth"] = 5.0
    return cells


def arguments(verb: str, given: list, folder: Path, checkpoint: Path) -> list:
    """Return the call of a verb: the file and options of a case, and what the verb needs beside them."""
    file, *options = given
    call = [*verb.split(), file, *options]
    if verb != "validate" and "--out" not in options:
        call += ["--out", folder / ("out.h5ad" if verb == "embed" else "out")]
    if verb in LENIENT and "--vocabulary" not in options:
        call += ["--vocabulary", checkpoint]
    if verb in STRICT and "--model" not in options:
        call += ["--model", checkpoint]
    return [*call, "--quiet"]


def listing(folder: Path) -> list:
    return sorted((path, path.is_file() and path.stat().st_size) for path in folder.rglob("*"))


def calls():
    """Yield row and verb; the slow ones read in the same way, and are called so by all tests only."""
    for row, one in CASES.items():
        for number, verb in enumerate(one.verbs):
            marks = [pytest.mark.slow] if number > 1 else []
            yield pytest.param(row, verb, marks=marks, id=f"{row}-{verb}")


@pytest.mark.parametrize(("row", "verb"), list(calls()))
def test_bad_input_is_refused_in_one_line_and_nothing_is_written(
    invoke, tmp_path, adata, checkpoint, monkeypatch, row, verb
):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what anndata thinks of these inputs
        given = CASES[row].make(tmp_path, adata)
    before = listing(tmp_path)
    answer = invoke(*arguments(verb, given, tmp_path, checkpoint))
    assert answer.code == 2, answer.err
    assert answer.out == ""
    warned = CASES[row].warns
    (message,) = [line for line in answer.err.splitlines() if warned is None or warned not in line]
    assert message.startswith("error: ")
    assert CASES[row].says in message
    assert listing(tmp_path) == before


@pytest.mark.parametrize("verb", ["validate", "tokenize", "embed", "vocab build"])
def test_the_same_input_unspoilt_is_read(invoke, tmp_path, adata, checkpoint, verb):
    """So that it is what was spoilt that was refused; `run` is tested where its outputs are."""
    assert invoke(*arguments(verb, [written(adata, tmp_path)], tmp_path, checkpoint)).code == 0


def test_every_row_of_the_table_is_a_case_and_every_case_a_row(repository):
    text = (repository / "docs" / "input.md").read_text(encoding="utf-8").partition("## Bad input")[2]
    rows = re.findall(r"^\| (.+?) \|", text, flags=re.MULTILINE)[1:]
    assert rows == list(CASES)
