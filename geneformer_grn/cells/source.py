"""One opened matrix of counts: the cells, the genes, and the counts in blocks of rows.

Whoever reads cells asks for blocks and never learns of which kind the file is. Cell and gene tables are read
whole when a file is opened (they are small next to the counts); counts are read when asked for, and memory is
bounded by the block. The files behind it stay open until :meth:`CountSource.close`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    from anndata import AnnData

    from geneformer_grn.cells.formats.matrices import StoredMatrix

NOT_STATED = "not stated"
BLOCK_VALUES = 1 << 22
# Chosen rows that are nearer to each other are read in one go: a seek costs about as much.
_NEAR_ROWS = 64


@dataclass(kw_only=True, eq=False)
class CountSource:
    """An opened matrix of counts; a context manager.

    Parameters
    ----------
    name
        File name without its folder; ``the AnnData`` for one in memory.
    kind
        ``h5ad``, ``zarr``, ``10x h5``, ``10x mtx``, ``loom``, ``text`` or ``AnnData``.
    path
        The file, or None.
    obs
        ``n_cells`` rows, indexed by cell name.
    var
        ``n_genes`` rows, indexed by the gene names of the file.
    label
        Which matrix of the file this is: ``X``, ``layer 'counts'``, ``raw``.
    matrix
        What reads it.
    mapped
        Whether ``pp.map_genes`` wrote ``var["ensembl_id"]``.
    stated
        Licence and source as the file states them.
    others
        The file's other matrices: name -> (option that chooses it, function that opens it).
    resources
        What is closed with the source.

    Examples
    --------
    >>> with open_source("cells.h5ad") as source:  # doctest: +SKIP
    ...     total = sum(block.sum() for _, block in source.blocks())
    """

    name: str
    kind: str
    path: Path | None
    obs: pd.DataFrame
    var: pd.DataFrame
    label: str
    matrix: StoredMatrix
    mapped: bool = False
    stated: dict[str, str] = field(default_factory=lambda: dict.fromkeys(("license", "source"), NOT_STATED))
    others: dict[str, tuple[str, Callable[[], StoredMatrix]]] = field(default_factory=dict)
    resources: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        where = str(self.path or self.name)
        if self.matrix.shape != (len(self.obs), len(self.var)):
            raise ValueError(
                f"{where} is damaged: {self.label} is {self.matrix.shape[0]:,} × {self.matrix.shape[1]:,}, "
                f"but there are {len(self.obs):,} cells and {len(self.var):,} genes"
            )
        if 0 in self.matrix.shape:
            raise ValueError(
                f"{self.name} holds {len(self.obs)} cells and {len(self.var)} genes; nothing can be read "
                "from it"
            )
        self.obs, self.var = (table.set_axis(table.index.astype(str)) for table in (self.obs, self.var))

    @property
    def shape(self) -> tuple[int, int]:
        """(n_cells, n_genes)."""
        return self.matrix.shape

    @property
    def layout(self) -> str:
        """How the matrix is stored: ``csr``, ``csc`` or ``dense``, seen as cells × genes."""
        return self.matrix.layout

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the blocks' values."""
        return self.matrix.dtype

    @property
    def nnz(self) -> int | None:
        """Number of stored values; None where only reading tells."""
        return self.matrix.nnz

    def blocks(
        self, start: int = 0, stop: int | None = None, *, max_values: int = BLOCK_VALUES
    ) -> Iterator[tuple[int, sparse.csr_matrix]]:
        """Yield (first row, csr block) for the rows from `start` to `stop`, in order.

        Parameters
        ----------
        start, stop
            Rows, as in a slice of non-negative numbers; default: all.
        max_values
            A block stores about as many values at most, but has at least one row.

        Yields
        ------
        tuple
            The block's first row, and ``(rows, n_genes)`` csr in the file's dtype (float16 as float32, bool
            as uint8). Stored zeros, unsorted and repeated columns, NaN and negative values come as they are.
            A block of an AnnData in memory shares it: leave its arrays unchanged.

        Raises
        ------
        ValueError
            The rows are not there, or the file is damaged.
        """
        stop = self.shape[0] if stop is None else stop
        if not 0 <= start <= stop <= self.shape[0]:
            raise ValueError(
                f"rows {start} to {stop} were asked for; {self.name} has {self.shape[0]:,} cells"
            )
        if max_values < 1:
            raise ValueError(f"blocks of {max_values} values were asked for; at least 1 is needed")
        with self._damage():
            yield from self.matrix.blocks(start, stop, max_values)

    def row_blocks(
        self, rows: np.ndarray, *, max_values: int = BLOCK_VALUES
    ) -> Iterator[tuple[np.ndarray, sparse.csr_matrix]]:
        """Yield (row numbers, csr block) for chosen rows only, skipping what lies between where possible.

        Parameters
        ----------
        rows
            ``(n,)`` int, strictly ascending.
        max_values
            See :meth:`blocks`.

        Raises
        ------
        ValueError
            The rows do not ascend or are not there, or the file is damaged.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) == 0:
            return
        if np.any(np.diff(rows) <= 0):
            raise ValueError("chosen rows must ascend, each given once")
        gaps: Any = np.flatnonzero(np.diff(rows) > _NEAR_ROWS) + 1 if self.matrix.seekable else []
        waiting: list[tuple[np.ndarray, sparse.csr_matrix]] = []
        stored = 0
        for run in np.split(rows, gaps):
            for first, block in self.blocks(int(run[0]), int(run[-1]) + 1, max_values=max_values):
                low, high = np.searchsorted(run, [first, first + block.shape[0]])
                if low == high:
                    continue
                chosen = block if high - low == block.shape[0] else block[run[low:high] - first]
                if waiting and stored + chosen.nnz > max_values:
                    yield _joined(waiting)
                    waiting, stored = [], 0
                waiting.append((run[low:high], chosen))
                stored += chosen.nnz
        if waiting:
            yield _joined(waiting)

    def sample(self, n_values: int = 100_000) -> np.ndarray:
        """Return up to about `n_values` stored values from several places, for judging; ``(n,)``."""
        with self._damage():
            return self.matrix.sample(n_values)

    def elsewhere(self) -> Iterator[tuple[str, str, Callable[[], np.ndarray]]]:
        """Yield the file's other matrices: their name, the option that chooses them, and a sampler."""
        for place, (option, open_matrix) in self.others.items():
            yield place, option, lambda open_matrix=open_matrix: open_matrix().sample(100_000)  # type: ignore[misc]

    def to_anndata(self) -> AnnData:
        """Return everything in memory: the counts as csr in ``X``, with copies of obs and var."""
        import anndata

        parts = [block for _, block in self.blocks()]
        whole = parts[0].copy() if len(parts) == 1 else sparse.vstack(parts, format="csr")
        matrix = sparse.csr_matrix(whole)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # repeated names are judged when genes are matched
            return anndata.AnnData(X=matrix, obs=self.obs.copy(), var=self.var.copy())

    def close(self) -> None:
        """Close the files behind the source and delete its temporary ones."""
        self.resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _damage(self) -> _Damage:
        return _Damage(str(self.path or self.name))


class _Damage:
    """Turn what the storage libraries raise while reading into one ValueError that names the file."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError | KeyError | RuntimeError | EOFError):
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ValueError(f"{self.where} cannot be read to its end; it is damaged: {reason}") from error


def _joined(parts: list[tuple[np.ndarray, sparse.csr_matrix]]) -> tuple[np.ndarray, sparse.csr_matrix]:
    if len(parts) == 1:
        return parts[0]
    numbers = np.concatenate([rows for rows, _ in parts])
    return numbers, sparse.csr_matrix(sparse.vstack([block for _, block in parts], format="csr"))
