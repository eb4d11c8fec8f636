"""Matrices stored by gene, handed on by cell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
from scipy import sparse

from geneformer_grn.cells.formats.matrices import SparseRows, check_sparse, readable_dtype, spread_sample


class SparseColumns:
    layout = "csc"
    seekable = False

    def __init__(
        self, data: Any, indices: Any, indptr: Any, *, shape: tuple[int, int], what: str, resources: ExitStack
    ) -> None:
        self.data, self.indices, self.indptr = data, indices, indptr
        self.shape, self.what = shape, what
        self.dtype = readable_dtype(data.dtype, what)
        check_sparse(data, indices, indptr, n_major=shape[1], what=what)
        self.nnz: int | None = int(data.shape[0])

    def blocks(self, start: int, stop: int, max_values: int) -> Iterator[tuple[int, sparse.csr_matrix]]:
        m = sparse.csc_matrix(
            (self.data[:].astype(self.dtype), self.indices[:], self.indptr[:]), shape=self.shape
        ).tocsr()
        yield from SparseRows(m.data, m.indices, m.indptr, shape=self.shape, what=self.what).blocks(
            start, stop, max_values
        )

    def sample(self, n_values: int) -> np.ndarray:
        return spread_sample(lambda a, b: np.asarray(self.data[a:b]), self.nnz or 0, n_values).astype(
            self.dtype
        )
