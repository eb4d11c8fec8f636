"""Parts on disk: written whole or not at all, told from those of other runs, and read back in slices.

``00007.parquet`` holds the values of part 7, ``00007.genes.parquet`` and ``00007.expression.parquet`` its
sums. The values come last: where they are, the part is done. Every file carries the fingerprint of its run.

Parts are ordered by cell, results by perturbation. `PairTable` turns one into the other through a file of
plain numbers, so that what is in memory is a part or a slice, never the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from geneformer_grn._runtime import atomic_path
from geneformer_grn.perturbation.parts import Pairs, PartList, PartResult, add_sums

_FINGERPRINT, _N_PASSES, _N_WITHOUT = b"fingerprint", b"n_passes", b"n_without_gene"
_GROUP_ROWS = 1 << 16  # rows that are read together where only some are wanted


def part_path(folder: Path, number: int, readout: str = "") -> Path:
    """Return the file of a part's values, or of its sums for a readout."""
    return folder / f"{number:05d}{'.' if readout else ''}{readout}.parquet"


def write_part(folder: Path, number: int, pairs: Pairs, result: PartResult, *, fingerprint: str) -> None:
    """Write a part: first its sums, then its values, each under its name only when complete.

    Parameters
    ----------
    folder
        Holds the parts of one run.
    number
        Of the part.
    pairs, result
        What it was asked, and what it found.
    fingerprint
        Of the run.
    """
    facts = {_FINGERPRINT: fingerprint.encode()}
    for readout, sums in result.sums.items():
        table = pa.Table.from_pandas(sums, preserve_index=False).replace_schema_metadata(facts)
        with atomic_path(part_path(folder, number, readout)) as temporary:
            pq.write_table(table, temporary, compression="zstd", row_group_size=_GROUP_ROWS)
    facts |= {
        _N_PASSES: str(result.n_passes).encode(), _N_WITHOUT: str(result.n_without_gene).encode(),
    }  # fmt: skip
    columns = {"request": pairs.request.astype(np.int32), "cell": pairs.cell.astype(np.int32)}
    columns |= {f"value_{place}": column for place, column in enumerate(result.values.T)}
    with atomic_path(part_path(folder, number)) as temporary:
        pq.write_table(pa.table(columns).replace_schema_metadata(facts), temporary, compression="zstd")


def require_part(path: Path, fingerprint: str) -> Mapping[bytes, bytes]:
    """Return what the file of a part says of itself.

    Raises
    ------
    ValueError
        It is damaged, or of another run.
    """
    try:
        facts = pq.read_schema(path).metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(
            f"{path.name} in {path.parent} is damaged ({error}); delete it and repeat the run"
        ) from error
    found = facts.get(_FINGERPRINT, b"").decode()
    if found != fingerprint:
        raise ValueError(
            f"{path.name} in {path.parent} is part of another run ({found[:12] or 'no fingerprint'}, not "
            f"{fingerprint[:12]}); take it out of that folder and repeat the run"
        )
    return facts


@dataclass(frozen=True, eq=False)
class PairTable:
    """The values of all pairs on disk, in the order of the requests and of the cells each lists.

    Parameters
    ----------
    path
        Float64 numbers, row after row.
    offsets
        ``(n_requests + 1,)`` where the rows of each request begin.
    n_columns
        Values of a pair.
    n_passes, n_without_gene
        Summed over the parts.
    """

    path: Path
    offsets: np.ndarray
    n_columns: int
    n_passes: int
    n_without_gene: int

    @classmethod
    def gather(cls, paths: Sequence[Path], parts: PartList, path: Path, *, fingerprint: str) -> PairTable:
        """Bring the values of all parts into one file `path`, which is made or replaced.

        Parameters
        ----------
        paths
            The file of each part, in order.
        parts
            Which pairs each holds.
        path
            The file to write.
        fingerprint
            Of the run.

        Raises
        ------
        ValueError
            A file is damaged, of another run, or holds other pairs.
        """
        n_columns = n_passes = n_without = 0
        for number, file in enumerate(paths):
            facts = require_part(file, fingerprint)
            pairs, columns = parts.pairs(number), pq.read_table(file).to_pandas()
            same = len(columns) == len(pairs.row) and (
                np.array_equal(columns.pop("request"), pairs.request)
                and np.array_equal(columns.pop("cell"), pairs.cell)
            )
            if not same:
                raise ValueError(
                    f"{file.name} in {file.parent} holds other cells or genes than part {number} of this run;"
                    " delete it and repeat the run"
                )
            if not n_columns:
                n_columns = columns.shape[1]
                with path.open("wb") as handle:
                    handle.truncate(parts.n_pairs * n_columns * 8)
            if len(pairs.row):
                # Mapped anew for each part: pages that were written need not stay in memory.
                mapped = np.memmap(path, dtype=np.float64, mode="r+", shape=(parts.n_pairs, n_columns))
                mapped[pairs.row] = columns.to_numpy()
                mapped.flush()
            n_passes += int(facts[_N_PASSES])
            n_without += int(facts[_N_WITHOUT])
        return cls(path, parts.offsets, n_columns, n_passes, n_without)

    def read(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the values ``(n, c)`` of some requests, one after the other."""
        slices = [np.empty((0, self.n_columns))]
        for number in numbers:
            start, stop = int(self.offsets[number]), int(self.offsets[number + 1])
            slices.append(
                np.fromfile(
                    self.path, count=(stop - start) * self.n_columns, offset=start * self.n_columns * 8
                ).reshape(-1, self.n_columns)
            )
        return np.concatenate(slices)


def summed_slices(
    paths: Sequence[Path], n_requests: int, *, fingerprint: str, most_rows: int = 1 << 22
) -> Iterator[pd.DataFrame]:
    """Yield the sums of all parts added up, a slice of the requests at a time, in order.

    Parameters
    ----------
    paths
        The file of sums of each part, in order.
    n_requests
        How many requests there are.
    fingerprint
        Of the run.
    most_rows
        Rows of all parts together that a slice is made of, about; one request is never cut.

    Raises
    ------
    ValueError
        A file is damaged or of another run.
    """
    rows = np.zeros(n_requests, dtype=np.int64)
    for path in paths:
        require_part(path, fingerprint)
        rows += np.bincount(
            pq.read_table(path, columns=["request"])["request"].to_numpy(), minlength=n_requests
        )
    slices = np.cumsum(rows) // most_rows
    for number in np.unique(slices):
        first, last = np.searchsorted(slices, [number, number + 1])
        wanted = [("request", ">=", int(first)), ("request", "<", int(last))]
        yield add_sums(pq.read_table(path, filters=wanted).to_pandas() for path in paths)
