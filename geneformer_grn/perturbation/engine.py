"""The engine: many perturbations of many cells through the encoder, in packed batches.

One stream of (cell, perturbation) passes runs over all cells and all genes at once, cut into parts
(`perturbation.parts`) and those into chunks of bounded memory. Within a chunk each unperturbed cell is
encoded once and its states kept; a perturbed cell's states live only as long as its batch. The encoder runs
no further than the layer that is read, and no language-model head but for the readout ``expression``.

`perturb_cells` holds all tables in memory. A run that must not writes its parts to disk instead, see
`perturbation.part_files`; both give the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from geneformer_grn._runtime import progress
from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.model.encoder import Encoder
from geneformer_grn.perturbation.axes import GeneAxes
from geneformer_grn.perturbation.expression import expression_table
from geneformer_grn.perturbation.parts import PartList, add_sums, perturb_part, state_targets
from geneformer_grn.perturbation.readouts import gene_shift_table
from geneformer_grn.perturbation.requests import PerturbSettings, Request

CELL_COLUMNS = ("cell_id", "gene", "kind", "group", "readout", "state", "cosine", "shift")


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
        The columns `GENE_SHIFT_COLUMNS` of `perturbation.readouts`, or None without the readout ``genes``.
    expression
        The columns `EXPRESSION_COLUMNS` of `perturbation.expression`, or None without that readout.
    n_passes
        Cells encoded, unperturbed ones included.
    n_without_gene
        (cell, request) pairs in which the cell lacks the gene.
    """

    cells: pd.DataFrame
    gene_shifts: pd.DataFrame | None
    expression: pd.DataFrame | None
    n_passes: int
    n_without_gene: int


def perturb_cells(
    encoder: Encoder,
    ranked: RankedCells,
    requests: Sequence[Request],
    settings: PerturbSettings,
    *,
    states: Mapping[str, np.ndarray] | None = None,
    axes: GeneAxes | None = None,
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
    axes
        Each gene's own axis of variation (same layer), for the signed shifts of the readout ``genes``; None:
        those are NaN.

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
    targets = state_targets(settings, states)
    parts = PartList(ranked, requests, encoder.vocabulary)
    values = np.full((parts.n_pairs, 1 + len(targets)), np.nan)
    sums: dict[str, list[pd.DataFrame]] = {}
    n_passes = n_without_gene = 0
    with progress(total=parts.n_pairs, desc="perturbing", unit="pass") as bar:
        for number in range(len(parts)):
            request, cell, row = parts.pairs(number)
            found = perturb_part(
                encoder, ranked, requests, (request, cell), settings,
                states=targets, axes=axes, tell=bar.update,
            )  # fmt: skip
            values[row] = found.values
            for readout, frame in found.sums.items():
                sums.setdefault(readout, []).append(frame)
            n_passes += found.n_passes
            n_without_gene += found.n_without_gene
    names = set_names(requests, encoder.vocabulary)
    cells = [
        cells_frame(requests, range(len(requests)), names, column, state=state)
        for state, column in zip(["", *targets], values.T, strict=True)
    ]
    tables = {
        readout: sums_table(readout, add_sums(frames), requests, names, encoder.vocabulary)
        for readout, frames in sums.items()
    }
    return Perturbed(
        cells=pd.concat(cells, ignore_index=True),
        gene_shifts=tables.get("genes"),
        expression=tables.get("expression"),
        n_passes=n_passes,
        n_without_gene=n_without_gene,
    )


def sums_table(
    readout: str,
    sums: pd.DataFrame,
    requests: Sequence[Request],
    names: np.ndarray,
    vocabulary: GeneVocabulary,
) -> pd.DataFrame:
    """Return the table of the readout ``genes`` or ``expression``, from sums added over all parts.

    Parameters
    ----------
    readout
        Which.
    sums
        ``request``, ``affected`` and that readout's sums.
    requests, names
        All requests, and the names of their gene sets.
    vocabulary
        What the affected tokens mean.
    """
    table_of = gene_shift_table if readout == "genes" else expression_table
    return table_of(sums, names, *kinds_and_groups(requests), vocabulary)


def set_names(requests: Sequence[Request], vocabulary: GeneVocabulary) -> np.ndarray:
    """Return the ``(n,)`` names of the requests' gene sets: Ensembl IDs joined by ``+``."""
    ids = vocabulary.ensembl_ids
    return np.array(["+".join(ids[list(request.genes)]) for request in requests], dtype=object)


def kinds_and_groups(requests: Sequence[Request]) -> tuple[np.ndarray, np.ndarray]:
    """Return the ``(n,)`` kinds and cell groups of the requests."""
    kinds = np.array([request.kind for request in requests], dtype=object)
    return kinds, np.array([request.group for request in requests], dtype=object)


def cells_frame(
    requests: Sequence[Request],
    numbers: Sequence[int] | np.ndarray,
    names: np.ndarray,
    values: np.ndarray,
    *,
    state: str = "",
) -> pd.DataFrame:
    """Return the cells table of some requests and one readout: `CELL_COLUMNS` and ``request``.

    Parameters
    ----------
    requests
        All of them.
    numbers
        Which.
    names
        Names of the gene sets of all requests.
    values
        ``(n,)`` float64, request after request: cosines, or with a state differences of cosines.
    state
        The state, or empty for the cell shift.
    """
    some = [requests[number] for number in numbers]
    sizes = [len(request.cells) for request in some]
    kinds, groups = kinds_and_groups(some)
    return pd.DataFrame(
        {
            "cell_id": np.concatenate([np.empty(0, dtype=np.int64), *(request.cells for request in some)]),
            "gene": np.repeat(names[np.asarray(numbers, dtype=np.int64)], sizes),
            "kind": np.repeat(kinds, sizes),
            "group": np.repeat(groups, sizes),
            "readout": "state" if state else "cell",
            "state": state,
            "cosine": values,
            "shift": values if state else 1.0 - values,
            "request": np.repeat(np.asarray(numbers, dtype=np.int64), sizes),
        }
    )
