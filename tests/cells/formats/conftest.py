"""One matrix of counts, and how it looks in every format."""

import gzip
from types import SimpleNamespace

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import io, sparse

from geneformer_grn.genes.table import load_gene_table

N_CELLS, N_GENES = 90, 40


@pytest.fixture(scope="session")
def genes():
    """Ensembl IDs and symbols of real genes."""
    table = load_gene_table()
    ids = [gene for gene, symbol in table.symbol_of.items() if symbol != gene][:N_GENES]
    return ids, [table.symbol_of[gene] for gene in ids]


@pytest.fixture(scope="session")
def counts():
    """``(90, 40)`` dense int64: many zeros, an empty row and column, a full row, values beyond uint16."""
    generator = np.random.default_rng(3)
    matrix = generator.poisson(generator.gamma(0.3, 2.0, (N_CELLS, N_GENES)))
    matrix[5], matrix[:, 7] = 0, 0
    matrix[6] = 1
    matrix[8, 9] = 70_000
    matrix[-1] = 0
    return matrix


@pytest.fixture
def cells(counts, genes):
    """An AnnData of the counts as csr float32."""
    return anndata.AnnData(
        X=sparse.csr_matrix(counts.astype(np.float32)),
        obs=pd.DataFrame(
            {"donor": pd.Categorical(["a", "b"] * 45)}, index=[f"cell{i}" for i in range(N_CELLS)]
        ),
        var=pd.DataFrame({"gene_symbol": genes[1]}, index=pd.Index(genes[0])),
    )


@pytest.fixture(scope="session")
def write(counts, genes):
    """Return the writers, each (path) -> path."""
    ids, symbols = genes
    barcodes = [f"cell{i}" for i in range(N_CELLS)]

    def tenx_v3(path, types=None):
        by_cell = sparse.csr_matrix(counts.astype(np.int32))
        with h5py.File(path, "w") as handle:
            group = handle.create_group("matrix")
            group["barcodes"] = np.array(barcodes, "S")
            group["data"], group["indices"], group["indptr"] = by_cell.data, by_cell.indices, by_cell.indptr
            group["shape"] = np.array([N_GENES, N_CELLS], np.int32)
            group["features/id"], group["features/name"] = np.array(ids, "S"), np.array(symbols, "S")
            group["features/feature_type"] = np.array(types or ["Gene Expression"] * N_GENES, "S")
            group["features/genome"] = np.array(["GRCh38"] * N_GENES, "S")
        return path

    def tenx_v2(path, genomes=("hg19",)):
        by_cell = sparse.csr_matrix(counts.astype(np.int32))
        with h5py.File(path, "w") as handle:
            for genome in genomes:
                group = handle.create_group(genome)
                group["barcodes"] = np.array(barcodes, "S")
                group["data"], group["indices"] = by_cell.data, by_cell.indices
                group["indptr"], group["shape"] = by_cell.indptr, np.array([N_GENES, N_CELLS])
                group["genes"], group["gene_names"] = np.array(ids, "S"), np.array(symbols, "S")
        return path

    def mtx(folder, *, version=3, packed=True, by_gene=True, types=None, prefix="", shuffle=False):
        folder.mkdir(exist_ok=True)
        matrix = sparse.coo_matrix(counts.T if by_gene else counts)
        order = np.lexsort((matrix.row, matrix.col)) if by_gene else np.lexsort((matrix.col, matrix.row))
        if shuffle:
            order = np.random.default_rng(0).permutation(order)
        entries = (f"{matrix.row[i] + 1} {matrix.col[i] + 1} {matrix.data[i]}\n" for i in order)
        head = "%%MatrixMarket matrix coordinate integer general\n%metadata_json: {}\n"
        third = types or ["Gene Expression"] * N_GENES
        rows = zip(ids, symbols, third, strict=True) if version == 3 else zip(ids, symbols, strict=True)
        texts = {
            "matrix.mtx": head + f"{matrix.shape[0]} {matrix.shape[1]} {matrix.nnz}\n" + "".join(entries),
            "features.tsv" if version == 3 else "genes.tsv": "".join("\t".join(row) + "\n" for row in rows),
            "barcodes.tsv": "".join(f"{name}\n" for name in barcodes),
        }
        for name, text in texts.items():
            content = text.encode()
            (folder / f"{prefix}{name}{'.gz' if packed else ''}").write_bytes(
                gzip.compress(content) if packed else content
            )
        return folder

    def loom(path, *, chunks=(16, 16), dtype=np.float32):
        with h5py.File(path, "w") as handle:
            handle.create_dataset("matrix", data=counts.T.astype(dtype), chunks=chunks)
            handle.create_dataset("layers/spliced", data=2 * counts.T, chunks=chunks)
            handle["row_attrs/Accession"], handle["row_attrs/Gene"] = (
                np.array(ids, "S"),
                np.array(symbols, "S"),
            )
            handle["col_attrs/CellID"] = np.array(barcodes, "S")
            handle["col_attrs/donor"] = np.array(["a", "b"] * 45, "S")
            handle["col_attrs/PCA"] = np.zeros((N_CELLS, 2))
        return path

    def text(path, *, by_gene=True, delimiter=",", corner=True, quoted=False, dtype=np.int64, end="\n"):
        names, columns = (symbols, barcodes) if by_gene else (barcodes, symbols)
        values = (counts.T if by_gene else counts).astype(dtype)

        def name(word):
            return f'"{word}"' if quoted else word

        lines = [delimiter.join([*([name("")] if corner else []), *map(name, columns)])]
        lines += [
            delimiter.join([name(word), *(str(value) for value in row)])
            for word, row in zip(names, values, strict=True)
        ]
        content = (end.join(lines) + end).encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
        return path

    return SimpleNamespace(
        tenx_v3=tenx_v3, tenx_v2=tenx_v2, mtx=mtx, loom=loom, text=text, mmwrite=io.mmwrite
    )


@pytest.fixture
def small_lots(monkeypatch):
    """Make every threshold of the transpose small, so that tiny matrices take the path of large ones."""
    from geneformer_grn.cells.formats import numbers, sorting

    monkeypatch.setattr(sorting, "LOT", 64)
    monkeypatch.setattr(sorting, "IN_MEMORY", 100)
    monkeypatch.setattr(numbers, "LOT_BYTES", 700)
