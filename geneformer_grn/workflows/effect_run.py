"""A perturbation run as ``evaluate effects`` reads it: its record, its vocabulary, its readouts' tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geneformer_grn.genes.vocabulary import GeneVocabulary, VocabularyMismatchError

_EXPRESSION, _SHIFTS = "expression.parquet", "gene_shifts.parquet"
READOUTS = {_EXPRESSION: "expression", _SHIFTS: "genes"}
"""Table -> the readout that it holds."""
_COLUMNS = {
    _EXPRESSION: ("gene", "affected", "kind", "group", "delta_nats", "n_cells"),
    _SHIFTS: ("gene", "affected", "kind", "group", "shift", "n_cells"),
}


def run_record(folder: Path) -> dict[str, Any]:
    """Return what ``parameters.json`` of a run's folder notes; nothing where there is none.

    Raises
    ------
    FileNotFoundError
        No folder, or neither table.
    ValueError
        The record is damaged, or a table is not of the run that it names.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; give the folder that 'perturb --out' wrote")
    if not any((folder / name).is_file() for name in READOUTS):
        raise FileNotFoundError(
            f"{folder} holds neither {_EXPRESSION} nor {_SHIFTS}; run perturb with --readout expression,genes"
        )
    path = folder / "parameters.json"
    if not path.is_file():
        return {}
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} of the run is damaged ({error}); run perturb again") from error
    _require_own_tables(record, folder)
    return record


def run_vocabulary(folder: Path, run: Mapping[str, Any], model: str | None) -> GeneVocabulary:
    """Return the vocabulary of the model named, else of the run's, which is known by its name only.

    Parameters
    ----------
    folder, run
        The run's folder and its record.
    model
        The model named.

    Raises
    ------
    FileNotFoundError
        There is no such model.
    VocabularyMismatchError
        The run was made with another vocabulary than the model's.
    """
    from geneformer_grn.model.folder import read_vocabulary, resolve_checkpoint

    name = model or str(run.get("model", "mini"))
    try:
        vocabulary = read_vocabulary(resolve_checkpoint(name))
    except FileNotFoundError as error:
        if model is not None:
            raise
        raise FileNotFoundError(
            f"the run was made with a model {name!r} that is not here; name its folder with --model"
        ) from error
    noted = str(run.get("vocabulary_fingerprint", vocabulary.fingerprint))
    if noted != vocabulary.fingerprint:
        raise VocabularyMismatchError(
            f"the run in {folder.name} was made with vocabulary {noted[:12]}, the model {Path(name).name} "
            f"has {vocabulary.fingerprint[:12]}; name the model of the run with --model"
        )
    return vocabulary


def read_readout(folder: Path, name: str, genes: Sequence[str]) -> pd.DataFrame | None:
    """Return the rows of a run's table whose gene was measured, None where there is no such table.

    Parameters
    ----------
    folder, name
        The run's folder, and the table in it.
    genes
        Ensembl IDs that were measured, sets joined by ``+``.

    Raises
    ------
    ValueError
        The table is damaged, or no gene was both perturbed and measured.
    """
    path = folder / name
    if not path.is_file():
        return None
    try:
        perturbed = pd.read_parquet(path, columns=["gene"])["gene"].astype(str).unique()
        names = {gene: "+".join(sorted(gene.split("+"))) for gene in perturbed}  # members in any order
        wanted = [gene for gene in perturbed if names[gene] in set(genes)]
        table = pd.read_parquet(path, filters=[("gene", "in", wanted)]) if wanted else None
    except (ValueError, OSError, KeyError) as error:
        raise ValueError(f"{name} of the run cannot be read ({error}); run perturb again") from error
    if table is None:
        raise ValueError(
            f"no gene was both perturbed and measured: the run perturbed {_first(perturbed)}, the truth "
            f"measured {_first(genes)}"
        )
    missing = [column for column in _COLUMNS[name] if column not in table.columns]
    if missing:
        raise ValueError(f"{name} of the run lacks the column {', '.join(missing)}; run perturb again")
    return table.assign(gene=table["gene"].astype(str).map(names))


def _require_own_tables(record: Mapping[str, Any], folder: Path) -> None:
    """Raise where the folder holds a readout's table that its run did not make."""
    readouts = {**record.get("parameters", {}), **record.get("found", {})}.get("readouts", "")
    named = set(str(readouts).split(","))
    for name, readout in READOUTS.items():
        if readout not in named and (folder / name).is_file():
            raise ValueError(
                f"{folder / name} is not of the run beside it: its parameters.json names the readouts "
                f"{readouts or 'none'}; delete the table, or run perturb again with --readout {readout}"
            )


def _first(genes: Sequence[str] | np.ndarray) -> str:
    return f"{', '.join(list(genes)[:3])}{', ...' if len(genes) > 3 else ''}" or "no gene"
