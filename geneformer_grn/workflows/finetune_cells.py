"""The cells of a fine-tuning run: one file or several, the same cell never twice."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from geneformer_grn._runtime import logger, sha256_file
from geneformer_grn.cells.counts import CellCounts, ReadSettings, read_counts
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.training.finetune_config import FinetuneConfig

if TYPE_CHECKING:
    from anndata import AnnData

_SAME_CELLS = 0.05  # share of barcodes that two files may have in common by chance


def read_cells(
    config: FinetuneConfig, places: Sequence[Path], vocabulary: GeneVocabulary
) -> tuple[CellCounts, dict[str, Any]]:
    """Return the cells that a config names, copies left out, and what to record of them.

    Parameters
    ----------
    config
        Names the files or what to generate.
    places
        Where files that the config names lie, where that is not the working directory.
    vocabulary
        The genes to keep.

    Raises
    ------
    FileNotFoundError
        A file is not there.
    ValueError
        A file cannot be read, or two of them hold the same cells.
    """
    data, seed = config.data, config.run.seed
    settings = ReadSettings(
        layer=data.layer, gene_column=data.gene_column, drop_empty=data.drop_empty, where=data.where
    )
    parts, files = [], []
    for source in _sources(config, places):
        name = None if isinstance(source, Path) else data.generate
        part = read_counts(source, vocabulary, settings, n_cells=data.n_cells, seed=seed, name=name)
        digest = sha256_file(source) if isinstance(source, Path) else None
        parts.append(part)
        files.append({"name": part.name, "sha256": digest, "n_cells": len(part)})
    _require_other_cells(parts)
    counts = parts[0] if len(parts) == 1 else _joined(parts)
    kept = np.sort(np.unique(copies_of(counts), return_index=True)[1])
    if n_copies := len(counts) - len(kept):
        logger.warning("%d cells have exactly the counts of another one and are left out", n_copies)
    return chosen_rows(counts, kept), {"files": files, "n_copies_left_out": n_copies}


def find_file(name: Path, places: Sequence[Path]) -> Path:
    """Return where a file that a config names lies: among `places` by its name, or where the config says.

    Raises
    ------
    FileNotFoundError
        It is in neither.
    """
    for place in places:
        if place.name == name.name:
            name = place
            break
    if not name.exists():
        raise FileNotFoundError(
            f"{name.name} is not here; say where it lies by --file FOLDER/{name.name}, or use other cells by "
            '--set data.files=["CELLS.h5ad"]'
        )
    return name


def _sources(config: FinetuneConfig, places: Sequence[Path]) -> list[Path | AnnData]:
    """Return the files or the generated cells."""
    if config.data.generate is not None:
        from geneformer_grn.workflows.planted_disease import planted_disease

        return [planted_disease(seed=config.run.seed)]
    named = {path.name for path in config.data.files}
    named |= {Path(task.table).name for task in config.tasks if task.table is not None}
    if unused := [place.name for place in places if place.name not in named]:
        raise ValueError(
            f"--file {unused[0]} is none of the config's files ({', '.join(sorted(named))}); to use it in "
            f'their place, pass --set data.files=["{unused[0]}"] with it'
        )
    return [find_file(path, places) for path in config.data.files]


def _require_other_cells(parts: Sequence[CellCounts]) -> None:
    """Refuse two files that hold the same cells, told by what follows the last colon of their names."""
    names = [{str(name).rsplit(":", 1)[-1] for name in part.obs.index} for part in parts]
    for i, j in combinations(range(len(parts)), 2):
        shared = len(names[i] & names[j])
        if shared > _SAME_CELLS * min(len(names[i]), len(names[j])):
            raise ValueError(
                f"{parts[i].name} and {parts[j].name} share {shared:,} cell names: the same cells would be "
                "learnt from and scored; name one of the files, or make the names differ"
            )


def _joined(parts: Sequence[CellCounts]) -> CellCounts:
    """Return the cells of several files over all columns that any of them has."""
    tokens = np.unique(np.concatenate([part.column_tokens for part in parts]))
    aligned = []
    for part in parts:
        matrix = part.matrix.tocsr()
        columns = np.searchsorted(tokens, part.column_tokens)[matrix.indices]
        aligned.append(
            sparse.csr_matrix((matrix.data, columns, matrix.indptr), shape=(len(part), len(tokens)))
        )
    obs = pd.concat([part.obs.assign(file=part.name) for part in parts])
    return replace(
        parts[0], matrix=sparse.csr_matrix(sparse.vstack(aligned, format="csr")), column_tokens=tokens,
        obs=obs, n_counts=np.concatenate([part.n_counts for part in parts]), kept=np.arange(len(obs)),
        name=" and ".join(part.name for part in parts),
    )  # fmt: skip


def copies_of(counts: CellCounts) -> np.ndarray:
    """Return ``(n,)`` str that are equal for cells with equal counts of equal genes."""
    matrix = counts.matrix
    digests = [
        hashlib.blake2b(matrix.indices[a:b].tobytes() + matrix.data[a:b].tobytes(), digest_size=8)
        for a, b in pairwise(matrix.indptr)
    ]
    return np.array([digest.hexdigest() for digest in digests])


def chosen_rows(counts: CellCounts, rows: np.ndarray) -> CellCounts:
    """Return the cells at `rows`, in that order."""
    if len(rows) == len(counts):
        return counts
    return replace(
        counts, matrix=counts.matrix[rows], n_counts=counts.n_counts[rows], obs=counts.obs.iloc[rows],
        kept=counts.kept[rows],
    )  # fmt: skip
