"""The end of a perturbation: the parts of a run become its tables.

Tables are written a slice of perturbations at a time, so that memory is bounded by a slice however many cells
there are. The reference's statistics look at all cells at once; they are made only where asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from geneformer_grn._runtime import logger
from geneformer_grn.workflows.perturb_options import REFERENCE

if TYPE_CHECKING:
    from geneformer_grn.perturbation.effects import Reader
    from geneformer_grn.perturbation.part_files import PairTable
    from geneformer_grn.workflows.perturb_job import PerturbJob
    from geneformer_grn.workflows.perturb_parts import PerturbWork

_SUMMED = {"genes": "gene_shifts.parquet", "expression": "expression.parquet"}


def write_tables(job: PerturbJob, works: Sequence[PerturbWork], folder: Path) -> dict[str, Any]:
    """Write the tables of a run whose parts are all there.

    Parameters
    ----------
    job
        The job of the plan.
    works
        Work folders of one run, that hold all its parts between them.
    folder
        Where to write: ``effects.parquet``, ``cells.parquet``, and as the readouts say
        ``gene_shifts.parquet`` and ``expression.parquet``; for the reference's statistics
        ``reference_*.parquet``. Must exist.

    Returns
    -------
    dict
        What was done, in plain values.

    Raises
    ------
    ValueError
        Parts are missing, damaged or of another run.
    """
    from geneformer_grn.perturbation.effects import effects_summary, summarise
    from geneformer_grn.perturbation.part_files import PairTable
    from geneformer_grn.perturbation.position import beyond_null

    fingerprint = works[0].fingerprint
    values = folder / "values"
    pairs = PairTable.gather(part_files(works), job.parts, values, fingerprint=fingerprint)

    def read(numbers: np.ndarray) -> pd.DataFrame:
        return pd.concat(_frames(job, pairs, numbers), ignore_index=True)

    effects, facts = summarise(job.prepared, read)
    beside: list[pd.DataFrame] = []
    _write(folder / "cells.parquet", chain(_cells(job, pairs), _contrasts(job, read, beside)))
    values.unlink()
    if beside:
        more = pd.concat(beside, ignore_index=True).reindex(columns=effects.columns)
        more = more.fillna({"n_donors": 0}).astype(dict(effects.dtypes))
        effects = pd.concat([effects, more], ignore_index=True)
    effects = beyond_null(effects)
    effects.to_parquet(folder / "effects.parquet", index=False)
    for readout, name in _SUMMED.items():
        if readout in job.settings.readouts:
            _write(folder / name, _summed(job, part_files(works, readout), readout, fingerprint))
    if REFERENCE in job.options.statistics:
        _write_reference(job, folder)
    logger.info("%s", effects_summary(effects))
    lacking = _never_held(effects)
    if lacking:
        logger.warning("no cell holds the genes of %d perturbations (first: %s)", len(lacking), lacking[0])
    return {
        "n_passes": pairs.n_passes,
        **facts,
        "n_pairs_without_gene": pairs.n_without_gene,
        "pooling": job.settings.pooling_for(job.vocabulary),
        "readouts": list(job.settings.readouts),
        "n_cells": len(job.rows),
        "n_gene_sets": len(job.prepared.sets),
        "genes_unknown": job.unknown,
        "n_without_cells": len(lacking),
        **works[0].known_noise(),
    }


def part_files(works: Sequence[PerturbWork], readout: str = "") -> list[Path]:
    """Return the file of every part, from whichever folder has it.

    Raises
    ------
    ValueError
        Parts are missing.
    """
    n_parts = int(works[0].plan["run"]["n_parts"])
    holders = [next((work for work in works if work.has(number)), None) for number in range(n_parts)]
    missing = [str(number) for number, work in enumerate(holders) if work is None]
    if missing:
        shown = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
        raise ValueError(
            f"{len(missing):,} of {n_parts:,} parts are missing from "
            f"{', '.join(work.folder.name for work in works)}: {shown}; run the shares (--part I/N) that are "
            "to make them, or the same perturb without --part"
        )
    return [work.part(number, readout) for number, work in enumerate(holders) if work is not None]


def _columns(job: PerturbJob) -> list[tuple[int, str]]:
    """Return column and state of each readout that is asked for."""
    columns = list(enumerate(["", *job.states]))
    return columns if "cell" in job.settings.readouts else columns[1:]


def _frames(job: PerturbJob, pairs: PairTable, numbers: np.ndarray) -> list[pd.DataFrame]:
    """Return the cells of some requests, a frame per readout and state."""
    from geneformer_grn.perturbation.engine import cells_frame

    values = pairs.read(numbers)
    return [
        cells_frame(job.requests, numbers, job.prepared.names, values[:, column], state=state)
        for column, state in _columns(job)
    ]


def _cells(job: PerturbJob, pairs: PairTable) -> Iterator[pd.DataFrame]:
    """Yield the cells table of the tested requests, one readout and state after the other."""
    from geneformer_grn.perturbation.effects_table import request_slices
    from geneformer_grn.perturbation.engine import CELL_COLUMNS, cells_frame

    tested = np.flatnonzero([not request.is_null for request in job.requests])
    names = _cell_names(job)
    for column, state in _columns(job):
        for numbers in request_slices(job.prepared.screen, tested):
            values = pairs.read(numbers)[:, column]
            frame = cells_frame(job.requests, numbers, job.prepared.names, values, state=state)
            yield frame[list(CELL_COLUMNS)].assign(cell_id=names[frame["cell_id"].to_numpy()])


def _contrasts(job: PerturbJob, read: Reader, effects: list[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Yield the cells of what combinations do beyond their parts; put their effects into `effects`."""
    from geneformer_grn.perturbation.combinations import BEYOND_ANCHOR, INTERACTION, contrasts

    if not job.options.pairs and job.options.anchor is None:
        return
    readout = INTERACTION if job.options.pairs else BEYOND_ANCHOR
    screen, seed = job.prepared.screen, job.options.seed
    names = _cell_names(job)
    for cells, found in contrasts(screen, job.prepared.names, read, readout, seed=seed):
        effects.append(found)
        yield cells.assign(cell_id=names[cells["cell_id"].to_numpy()])


def _cell_names(job: PerturbJob) -> np.ndarray:
    return job.counts.obs.index.astype(str).to_numpy(dtype=object)


def _summed(job: PerturbJob, paths: Sequence[Path], readout: str, fingerprint: str) -> Iterator[pd.DataFrame]:
    from geneformer_grn.perturbation.engine import sums_table
    from geneformer_grn.perturbation.part_files import summed_slices

    for sums in summed_slices(paths, len(job.requests), fingerprint=fingerprint):
        yield sums_table(readout, sums, job.requests, job.prepared.names, job.vocabulary)


def _write(path: Path, frames: Iterable[pd.DataFrame]) -> None:
    """Write frames of the same columns as one Parquet file, a row group each."""
    writer = None
    try:
        for frame in frames:
            table = pa.Table.from_pandas(frame, preserve_index=False)
            if writer is None:
                writer = pq.ParquetWriter(path, _with_text(table.schema))
            writer.write_table(table.cast(writer.schema))
    finally:
        if writer is not None:
            writer.close()


def _with_text(schema: pa.Schema) -> pa.Schema:
    """Return the schema with text where a column came without rows, which does not tell its type."""
    fields = [field.with_type(pa.string()) if pa.types.is_null(field.type) else field for field in schema]
    return pa.schema(fields, metadata=schema.metadata)


def _write_reference(job: PerturbJob, folder: Path) -> None:
    from geneformer_grn.perturbation.reference_statistics import reference_tables

    shifts = folder / _SUMMED["genes"]
    tables = reference_tables(
        pd.read_parquet(folder / "cells.parquet"),
        gene_shifts=pd.read_parquet(shifts) if shifts.is_file() else None,
        seed=job.options.seed,
    )
    for name, table in tables.items():
        table.to_parquet(folder / f"{REFERENCE}_{name}.parquet", index=False)


def _never_held(effects: pd.DataFrame) -> list[str]:
    """Return the perturbed genes that no cell of any group held."""
    most = effects.groupby("gene", sort=False)["n_cells"].max()
    return most.index[most == 0].astype(str).tolist()
