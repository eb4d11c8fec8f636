"""The end of a perturbation: the parts of a run become its tables.

Tables are written a slice of perturbations at a time, so that memory is bounded by a slice however many cells
there are. Contrasts of pairs and the reference's statistics look at all cells at once; they are made only
where asked for.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from geneformer_grn._runtime import library_versions, logger, package_version, plain_json, write_json
from geneformer_grn.workflows.perturb_options import REFERENCE

if TYPE_CHECKING:
    from geneformer_grn.perturbation.part_files import PairTable
    from geneformer_grn.workflows.perturb_job import PerturbJob
    from geneformer_grn.workflows.perturb_parts import PerturbWork

_SUMMED = {"genes": "gene_shifts.parquet", "expression": "expression.parquet"}


@dataclass(frozen=True, eq=False, kw_only=True)
class PerturbTables:
    """What a perturbation found, in memory.

    Parameters
    ----------
    effects
        One row per gene set, group, readout and state.
    cells
        One row per gene set, cell, readout and state; ``cell_id`` are the obs names. Null perturbations are
        left out.
    gene_shifts, expression
        One row per (perturbed, affected) pair and group, or None where the readout was not asked for.
    reference
        The tables of the reference's statistics by name; none unless asked for.
    facts
        What was done.
    record
        The same and the parameters in single values, by section.
    """

    effects: pd.DataFrame
    cells: pd.DataFrame
    gene_shifts: pd.DataFrame | None
    expression: pd.DataFrame | None
    reference: dict[str, pd.DataFrame]
    facts: dict[str, Any]
    record: dict[str, Any]


def read_tables(folder: Path, facts: dict[str, Any], noted: dict[str, Any]) -> PerturbTables:
    """Read what `write_tables` wrote into a folder.

    Parameters
    ----------
    folder
        The folder.
    facts, noted
        What it returned, and the `record` of that.
    """
    found = {path.stem: pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))}
    prefix = f"{REFERENCE}_"
    return PerturbTables(
        effects=found["effects"],
        cells=found["cells"],
        gene_shifts=found.get("gene_shifts"),
        expression=found.get("expression"),
        reference={
            name.removeprefix(prefix): table for name, table in found.items() if name.startswith(prefix)
        },
        facts=facts,
        record=noted,
    )


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
    effects, facts = summarise(
        job.prepared,
        lambda numbers: pd.concat(_frames(job, pairs, numbers), ignore_index=True),
    )
    _write(folder / "cells.parquet", _cells(job, pairs))
    values.unlink()
    if job.options.pairs or job.options.anchor is not None:
        effects = _with_contrasts(job, effects, folder / "cells.parquet")
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


def record(job: PerturbJob, facts: dict[str, Any], *, model: str, precision: str) -> dict[str, Any]:
    """Return what was run on what, in single values (lists as text with commas, nothing unset) by section.

    Parameters
    ----------
    job
        What was asked.
    facts
        What was done, of `write_tables`.
    model, precision
        Name of the model, and how it ran.
    """

    def single(values: dict[str, Any]) -> dict[str, Any]:
        joined = {
            key: ",".join(map(str, value)) if isinstance(value, list | tuple) else value
            for key, value in values.items()
        }
        return {key: value for key, value in joined.items() if isinstance(value, str | bool | int | float)}

    return {
        "package_version": package_version(),
        "model": model,
        "vocabulary_fingerprint": job.vocabulary.fingerprint,
        "parameters": single({**asdict(job.options), "precision": precision}),
        "found": single(plain_json(facts)),
        "cells": single(job.counts.report),
    }


def finish(job: PerturbJob, works: Sequence[PerturbWork], out: Path) -> dict[str, Any]:
    """Write the tables and the parameters of a run into the folder `out`, all or none.

    Parameters
    ----------
    job, works
        As in `write_tables`. The tables are made in the first folder.
    out
        The folder to write; other files that it holds stay.

    Returns
    -------
    What was done.

    Raises
    ------
    ValueError
        As in `write_tables`.
    """
    staging = works[0].folder / "tables"
    shutil.rmtree(staging, ignore_errors=True)  # of a call that was killed here
    staging.mkdir()
    facts = write_tables(job, works, staging)
    run = works[0].plan["run"]
    noted = record(job, facts, model=run["model"], precision=run["precision"])
    write_json(
        staging / "parameters.json",
        {"verb": "perturb", "file": run["file"], **noted, "versions": library_versions()},
    )
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(staging.iterdir()):
        path.replace(out / path.name)
    return facts


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
    names = job.counts.obs.index.astype(str).to_numpy(dtype=object)
    for column, state in _columns(job):
        for numbers in request_slices(job.prepared.screen, tested):
            values = pairs.read(numbers)[:, column]
            frame = cells_frame(job.requests, numbers, job.prepared.names, values, state=state)
            yield frame[list(CELL_COLUMNS)].assign(cell_id=names[frame["cell_id"].to_numpy()])


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


def _with_contrasts(job: PerturbJob, effects: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return the effects with those of combinations beyond their parts, and add their cells to the table."""
    from geneformer_grn.perturbation.combinations import BEYOND_ANCHOR, INTERACTION, with_contrasts
    from geneformer_grn.perturbation.effects import PerturbationResult

    plain = PerturbationResult(effects=effects, cells=pd.read_parquet(path), gene_shifts=None, facts={})
    readout = INTERACTION if job.options.pairs else BEYOND_ANCHOR
    result = with_contrasts(plain, readout, seed=job.options.seed)
    _write(path, [result.cells])
    return result.effects


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
