"""What a perturbation leaves behind: tables and the parameters beside them, in a folder or in memory."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from geneformer_grn._runtime import library_versions, package_version, plain_json, write_json
from geneformer_grn.workflows.perturb_options import REFERENCE
from geneformer_grn.workflows.perturb_tables import write_tables

if TYPE_CHECKING:
    from geneformer_grn.workflows.perturb_job import PerturbJob
    from geneformer_grn.workflows.perturb_parts import PerturbWork

TABLES = (
    "effects.parquet", "cells.parquet", "gene_shifts.parquet", "expression.parquet",
    f"{REFERENCE}_*.parquet", "genes.parquet",
)  # fmt: skip
"""What this verb and ``screen`` write."""


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
        The folder to write. Tables that an earlier run left there go, all other files stay.

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
    made = sorted(staging.iterdir())
    for path in made:
        path.replace(out / path.name)
    remove_stale_tables(out, {path.name for path in made})
    return facts


def remove_stale_tables(out: Path, made: Collection[str]) -> None:
    """Remove from `out` the tables of an earlier run: beside these parameters they would pass for this one's.

    Parameters
    ----------
    out
        The folder; only files that `perturb` or `screen` would write are removed.
    made
        Names of the files that the run wrote.
    """
    for pattern in TABLES:
        for path in out.glob(pattern):
            if path.name not in made:
                path.unlink()
