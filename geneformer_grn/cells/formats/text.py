"""CSV and TSV tables of counts: cells × genes or genes × cells, gzipped or not, with or without a corner.

Opening reads a file once for its names, its shape and what is wrong with it; which side the genes are on is
decided by which names the gene table knows. A table by cell is then parsed block by block, one by gene is put
in order of cells.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
from scipy import sparse

from geneformer_grn._runtime import logger
from geneformer_grn.cells.formats.matrices import StoredMatrix, block_of, row_cuts
from geneformer_grn.cells.formats.numbers import lines_of, lots_of_lines, parse
from geneformer_grn.cells.formats.transpose import Entries, GeneMajorMatrix
from geneformer_grn.cells.source import CountSource
from geneformer_grn.genes.table import load_gene_table

_ENSEMBL = re.compile(r"ENS[A-Z]{0,4}G[0R]?\d{6,}(\.\d+)?(_PAR_Y)?")
_DELIMITERS = "\t,; "
_EMPTY = (b"\n", b"\r\n")
_N_TESTED = 2000
_DIGITS = b'0123456789-\t,; "\r\n'


@dataclass(frozen=True)
class _Layout:
    """What the first lines say: the delimiter, lines before the numbers, and the names in the header."""

    delimiter: str
    n_before: int
    header: list[str]


def open_text(path: Path, layer: str | None) -> CountSource:
    """Open a table of counts in text; see :func:`~geneformer_grn.cells.opening.open_source`.

    Raises
    ------
    ValueError
        It is no table, its lines differ in length, or it holds no cells or genes.
    """
    if layer is not None:
        raise ValueError(f"{path}: there is no layer {layer!r}; the file has no layers")
    layout = _read_layout(path)
    names, integral = _scan(path, layout)
    by_gene = _genes_are_first(names, layout.header, path.name)
    cells, genes = (layout.header, names) if by_gene else (names, layout.header)
    dtype = np.dtype(np.int64 if integral else np.float64)
    resources = ExitStack()
    matrix: StoredMatrix = _TextRows(path, layout, (len(cells), len(genes)), dtype)
    if by_gene and cells and genes:
        lines = _TextRows(path, layout, (len(genes), len(cells)), dtype)
        matrix = GeneMajorMatrix(
            lines.entries, shape=(len(cells), len(genes)), dtype=dtype, layout="dense",
            n_expected=len(cells) * len(genes) // 10, what=f"the table in {path.name}", resources=resources,
        )  # fmt: skip
    return CountSource(
        name=path.name, kind="text", path=path,
        obs=pd.DataFrame(index=pd.Index(cells, dtype=object)),
        var=pd.DataFrame(index=pd.Index(genes, dtype=object)),
        label="X", matrix=matrix, resources=resources,
    )  # fmt: skip


def _read_layout(path: Path) -> _Layout:
    with lines_of(path) as file:
        n_before, line = 1, file.readline()
        while line.startswith(b"#") and b"\t" not in line:
            n_before, line = n_before + 1, file.readline()
        first = file.readline()
        while first in _EMPTY:
            first = file.readline()
        texts = [text.decode("utf-8-sig", "replace").rstrip("\r\n") for text in (line, first)]
    for delimiter in sorted(_DELIMITERS, key=texts[0].count, reverse=True):
        names, values = (next(csv.reader([text], delimiter=delimiter), []) for text in texts)
        if len(values) > 1 and len(values) - len(names) in {0, 1}:
            # R writes no name over the first column, others do.
            header = names[len(names) - len(values) + 1 :]
            return _Layout(delimiter, n_before, [name.strip() for name in header])
    raise ValueError(
        f"{path} is no table of counts: its first line has no names separated by tab, comma, semicolon or "
        f"space that fit the next line's fields ({texts[0][:40]!r}, {texts[1][:40]!r})"
    )


def _scan(path: Path, layout: _Layout) -> tuple[list[str], bool]:
    """Return the names of the lines, and whether all values look like whole numbers."""
    names, integral = [], True
    delimiter = layout.delimiter.encode()
    with _after_header(path, layout) as file:
        for number, line in enumerate(file, start=layout.n_before + 1):
            if line in _EMPTY:
                continue
            start = line.find(b'"', 1) + 1 if line.startswith(b'"') else 0
            end = line.find(delimiter, start)
            n_values = line.count(delimiter, end) if end >= 0 else 0
            if n_values != len(layout.header):
                raise ValueError(
                    f"{path}: line {number:,} has {n_values:,} values, where the header names "
                    f"{len(layout.header):,}; the file is cut off or its lines are ragged"
                )
            names.append(line[:end].decode("utf-8", "replace").strip().strip('"'))
            integral = integral and not line[end:].translate(None, _DIGITS)
    return names, integral


class _after_header(ExitStack):  # noqa: N801
    """Open a table behind its header."""

    def __init__(self, path: Path, layout: _Layout) -> None:
        super().__init__()
        self.path, self.layout = path, layout

    def __enter__(self) -> IO[bytes]:  # type: ignore[override]
        file = self.enter_context(lines_of(self.path))
        for _ in range(self.layout.n_before):
            file.readline()
        return file


def _filled(text: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the runs of lines that are not empty, and where they start."""
    if not text.startswith(b"\n") and b"\n\n" not in text:
        yield 0, text
        return
    for run in re.finditer(rb"(?:[^\n]+\n)+", text):
        yield run.start(), run.group()


def _genes_are_first(names: list[str], header: list[str], name: str) -> bool:
    """Return whether the lines are the genes, by which side's names the gene table knows better."""
    shares = [_share_of_genes(side) for side in (names, header)]
    if shares[0] == shares[1]:
        logger.warning(
            "%s: neither lines nor columns look more like genes than the other; it is read as genes × cells",
            name,
        )
    return shares[0] >= shares[1]


def _share_of_genes(names: list[str]) -> float:
    known = load_gene_table().ensembl_of
    sample = [text.upper() for text in names[:: max(1, len(names) // _N_TESTED)]]
    return sum(text in known or _ENSEMBL.fullmatch(text) is not None for text in sample) / max(1, len(sample))


class _TextRows:
    """A table read line by line, as a matrix of its lines."""

    layout = "dense"
    seekable = False
    nnz: int | None = None

    def __init__(self, path: Path, layout: _Layout, shape: tuple[int, int], dtype: np.dtype) -> None:
        self.path, self.text, self.shape, self.dtype = path, layout, shape, dtype

    def _lots(self) -> Iterator[tuple[int, int, np.ndarray, np.ndarray, np.ndarray]]:
        """Yield (first row, rows, row within, column, value), zeros left out."""
        first, line = 0, self.text.n_before + 1
        with _after_header(self.path, self.text) as file:
            for text in lots_of_lines(file):
                full = text.replace(b"\r", b"")
                for start, lines in _filled(full):
                    rows, columns, values, n_rows = parse(
                        lines, self.path, delimiter=self.text.delimiter, named=True,
                        first_line=line + full.count(b"\n", 0, start),
                    )  # fmt: skip
                    yield first, n_rows, rows, columns, values.astype(self.dtype, copy=False)
                    first += n_rows
                line += full.count(b"\n")

    def entries(self) -> Entries:
        """Yield (columns, rows, values), for the transpose."""
        for first, _, rows, columns, values in self._lots():
            yield columns, rows + first, values

    def blocks(self, start: int, stop: int, max_values: int) -> Iterator[tuple[int, sparse.csr_matrix]]:
        """Yield (first row, block)."""
        for first, n_rows, rows, columns, values in self._lots():
            if first >= stop:
                return
            low, high = max(start - first, 0), min(stop - first, n_rows)
            if low >= high:
                continue
            pointers = np.searchsorted(rows, np.arange(low, high + 1))
            for a, b in pairwise(row_cuts(pointers, max_values)):
                chosen = slice(pointers[a], pointers[b])
                ends = pointers[a : b + 1] - pointers[a]
                yield first + low + a, block_of(values[chosen], columns[chosen], ends, self.shape[1])

    def sample(self, n_values: int) -> np.ndarray:
        """Return the values first read."""
        for _, _, _, _, values in self._lots():
            return values[:n_values]
        return np.empty(0, dtype=self.dtype)
