"""The engine: many perturbations of many cells through the encoder, in packed batches.

One stream of (cell, perturbation) passes runs over all cells and all genes at once, cut into chunks of
bounded memory. Within a chunk each unperturbed cell is encoded once and its states kept; a perturbed cell's
states live only as long as its batch. The encoder runs no further than the layer that is read, and no
language-model head is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from geneformer_grn._runtime import progress
from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.model.encoder import Encoder
from geneformer_grn.perturbation.passes import PassEncoder
from geneformer_grn.perturbation.readouts import GeneShifts
from geneformer_grn.perturbation.requests import PerturbSettings, Request
from geneformer_grn.perturbation.tasks import chunks, make_tasks

CELL_COLUMNS = ("cell_id", "gene", "kind", "group", "readout", "state", "cosine", "shift")
GENE_SHIFT_COLUMNS = ("gene", "affected", "kind", "group", "shift", "n_cells")
_CHUNK_BATCHES = 8  # batches whose unperturbed states are held together


@dataclass(frozen=True, eq=False)
class Perturbed:
    """What the engine found.

    Parameters
    ----------
    cells
        One row per request, cell, readout and state: `CELL_COLUMNS` and ``request`` (its number).
        ``cell_id`` is the row of the ranked cells. ``cosine`` is what the reference reports: the cosine, or
        with states the difference of cosines; ``shift`` is ``1 - cosine``, or with states the same
        difference. NaN where the cell lacks the gene.
    gene_shifts
        `GENE_SHIFT_COLUMNS`, or None where the readout was not asked for.
    n_passes
        Cells encoded, unperturbed ones included.
    n_without_gene
        (cell, request) pairs in which the cell lacks the gene.
    """

    cells: pd.DataFrame
    gene_shifts: pd.DataFrame | None
    n_passes: int
    n_without_gene: int


def perturb_cells(
    encoder: Encoder,
    ranked: RankedCells,
    requests: Sequence[Request],
    settings: PerturbSettings,
    *,
    states: Mapping[str, np.ndarray] | None = None,
) -> Perturbed:
    """Perturb cells in silico and read off how far their states move.

    Parameters
    ----------
    encoder
        The model, with its vocabulary.
    ranked
        Cells ranked with that vocabulary.
    requests
        What to perturb where.
    settings
        Layer, pooling, batch size, readouts.
    states
        Name -> ``(d,)`` mean embedding of labelled cells (same layer and pooling), for the readout ``state``.

    Returns
    -------
    The tables and the number of passes.

    Raises
    ------
    ValueError
        The readout ``state`` without states, or pooling ``cls`` without a ``<cls>`` token.

    Notes
    -----
    Theodoris et al. (2023), Transfer learning enables predictions in network biology, Nature 618.
    """
    targets = dict(states or {}) if "state" in settings.readouts else {}
    if "state" in settings.readouts and not targets:
        raise ValueError("the readout 'state' needs mean embeddings of states; pass a start and a goal")
    request_of = np.repeat(np.arange(len(requests)), [len(request.cells) for request in requests])
    cell_of = np.concatenate([np.empty(0, dtype=np.int64), *(request.cells for request in requests)])
    values = np.full((len(cell_of), 1 + len(targets)), np.nan)
    passes = PassEncoder(encoder, settings, np.array(list(targets.values()), dtype=np.float64))
    tasks = make_tasks(
        encoder.vocabulary, ranked, requests, (request_of, cell_of), quartiles=settings.quartiles
    )
    n_edits = 0
    with progress(total=len(cell_of), desc="perturbing", unit="pass") as bar, torch.inference_mode():
        for chunk, n_seen in chunks(tasks, _CHUNK_BATCHES * settings.token_budget):
            for part, found in passes.run(chunk):
                values[[task.row for task in part]] = found
            n_edits += len(chunk)
            bar.update(n_seen)
    names = set_names(requests, encoder.vocabulary)
    shifts = _gene_table(requests, names, passes.gene_shifts, encoder.vocabulary)
    return Perturbed(
        cells=_cell_table(requests, names, (request_of, cell_of), values, ["", *targets]),
        gene_shifts=shifts if "genes" in settings.readouts else None,
        n_passes=passes.n_encoded,
        n_without_gene=len(cell_of) - n_edits,
    )


def set_names(requests: Sequence[Request], vocabulary: GeneVocabulary) -> np.ndarray:
    """Return the ``(n,)`` names of the requests' gene sets: Ensembl IDs joined by ``+``."""
    ids = vocabulary.ensembl_ids
    return np.array(["+".join(ids[list(request.genes)]) for request in requests], dtype=object)


def _cell_table(
    requests: Sequence[Request],
    names: np.ndarray,
    pairs: tuple[np.ndarray, np.ndarray],
    values: np.ndarray,
    states: list[str],
) -> pd.DataFrame:
    """Return the cells table from `values` ``(n, 1 + s)``: the cell cosine, then each state's difference."""
    request_of, cell_of = pairs
    kinds = np.array([request.kind for request in requests], dtype=object)
    groups = np.array([request.group for request in requests], dtype=object)
    common = {
        "cell_id": cell_of,
        "gene": names[request_of],
        "kind": kinds[request_of],
        "group": groups[request_of],
    }
    parts = [
        pd.DataFrame(
            {
                **common,
                "readout": "state" if state else "cell",
                "state": state,
                "cosine": column,
                "shift": column if state else 1.0 - column,
                "request": request_of,
            }
        )
        for state, column in zip(states, values.T, strict=True)
    ]
    return pd.concat(parts, ignore_index=True)


def _gene_table(
    requests: Sequence[Request], names: np.ndarray, shifts: GeneShifts, vocabulary: GeneVocabulary
) -> pd.DataFrame:
    """Return the table of gene shifts: one row per request and affected gene."""
    request, affected, cosine, n_cells = shifts.result()
    kinds = np.array([item.kind for item in requests], dtype=object)
    groups = np.array([item.group for item in requests], dtype=object)
    columns = (
        names[request], vocabulary.ensembl_ids[affected], kinds[request], groups[request], 1.0 - cosine,
        n_cells,
    )  # fmt: skip
    return pd.DataFrame(dict(zip(GENE_SHIFT_COLUMNS, columns, strict=True)))
