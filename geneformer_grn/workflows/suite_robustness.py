"""Suite: whether a cell stays where it belongs when its depth, protocol, donor or species is another one.

Embeddings are compared by the cosine after the mean of the reference cells is taken off, for the model as for
components: without that, all of a model's cells point the same way and every cosine is near 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from geneformer_grn.workflows.suite_bench import Bench, column, labelled, rows_of
from geneformer_grn.workflows.suite_rows import unit_row

if TYPE_CHECKING:
    from geneformer_grn.cells.counts import CellCounts

SHARES = {"1/2": 0.5, "1/4": 0.25, "1/10": 0.1}
N_DEPTH, N_DONOR = 300, 800
NEIGHBOURS = 15
PCA = "hvg_pca"
_MEASURE = f"label agreement, {NEIGHBOURS} nearest cells"


def depth_rows(bench: Bench) -> list[dict[str, Any]]:
    """Return the rows of cells whose counts are thinned, compared with all cells at full depth."""
    counts = bench.counts("pbmc3k")
    rows = labelled(counts)
    rng = np.random.default_rng(bench.seed)
    counts = rows_of(counts, np.sort(rng.permutation(rows)[:N_DEPTH]))
    labels, whole = column(counts, "cell_type"), bench.embeddings(counts)
    found = []
    for title, share in SHARES.items():
        fewer = thinned(counts, share, np.random.default_rng([bench.seed, round(1000 * share)]))
        pairs = {name: (whole[name], each) for name, each in bench.embeddings(fewer).items()}
        pairs[PCA] = components(counts, fewer, seed=bench.seed)
        filled = np.isfinite(np.hstack([each for _, each in pairs.values()])).all(axis=1)
        own, agree, near = np.flatnonzero(filled), {}, {}
        for name, (reference, query) in pairs.items():
            agree[name] = agreement(reference, query[filled], labels, labels[filled], own=own)
            near[name] = cosines(reference, query)[filled]
        data, task = f"pbmc3k, {title} of the counts", "robustness: depth"
        found += [
            unit_row(task, _MEASURE, data, units=agree, seed=bench.seed),
            unit_row(task, "cosine with itself at full depth", data, units=near, seed=bench.seed),
        ]
    return found


def other_protocol_rows(bench: Bench) -> list[dict[str, Any]]:
    """Return the row of cell lines, each cell labelled by its nearest cells of the other protocol."""
    from geneformer_grn.workflows.suite_embeddings import both_protocols

    counts = both_protocols(bench)
    units, _ = across(bench, counts, column(counts, "assay"))
    return [
        unit_row(
            "robustness: technology", _MEASURE, "lung cancer lines, 2 protocols", units=units, seed=bench.seed
        )
    ]


def other_donor_rows(bench: Bench) -> list[dict[str, Any]]:
    """Return the row of blood cells, each labelled by its nearest cells of other donors; over donors."""
    counts = bench.counts("kang", n_cells=N_DONOR)
    counts = rows_of(counts, labelled(counts))
    units, donors = across(bench, counts, column(counts, "donor"))
    return [
        unit_row(
            "robustness: donor", _MEASURE, "Kang PBMC, 8 donors", units=units, seed=bench.seed, groups=donors
        )
    ]


def other_species_rows(bench: Bench) -> list[dict[str, Any]]:
    """Return the row of mouse cells named by human orthologs, each labelled by its nearest other cells."""
    counts = bench.counts("mouse_pancreas")
    counts = rows_of(counts, labelled(counts))
    labels, places = column(counts, "cell_type"), np.arange(len(counts))
    pairs = {name: (each, each) for name, each in bench.embeddings(counts).items()}
    pairs[PCA] = components(counts, counts, seed=bench.seed)
    units = {
        name: agreement(reference, query, labels, labels, own=places)
        for name, (reference, query) in pairs.items()
    }
    note = "one-to-one orthologs; nearest among the other mouse cells"
    return [
        unit_row("robustness: species", _MEASURE, "mouse pancreas", units=units, seed=bench.seed, note=note)
    ]


def across(bench: Bench, counts: CellCounts, batches: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return for each cell whether its nearest cells of other batches have its label.

    Parameters
    ----------
    bench
        The model.
    counts
        Cells with the obs column ``cell_type``.
    batches
        ``(n,)`` str.

    Returns
    -------
    tuple
        Method -> ``(n,)`` float64, 0 or 1; ``(n,)`` the batch of each. Cells in the order of their batches.
    """
    labels, whole = column(counts, "cell_type"), bench.embeddings(counts)
    found: dict[str, list[np.ndarray]] = {name: [] for name in (*whole, PCA)}
    order = []
    for inside, outside in _batches(batches):
        pairs = {name: (each[outside], each[inside]) for name, each in whole.items()}
        pairs[PCA] = components(rows_of(counts, outside), rows_of(counts, inside), seed=bench.seed)
        for name, (reference, query) in pairs.items():
            found[name].append(agreement(reference, query, labels[outside], labels[inside]))
        order.append(inside)
    return {name: np.concatenate(parts) for name, parts in found.items()}, batches[np.concatenate(order)]


def _batches(batches: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for name in np.unique(batches):
        yield np.flatnonzero(batches == name), np.flatnonzero(batches != name)


def thinned(counts: CellCounts, share: float, rng: np.random.Generator) -> CellCounts:
    """Return cells of which each molecule is kept with the probability `share`."""
    from scipy import sparse

    matrix = counts.matrix
    kept = rng.binomial(np.rint(matrix.data).astype(np.int64), share).astype(matrix.dtype)
    fewer = sparse.csr_matrix((kept, matrix.indices.copy(), matrix.indptr.copy()), shape=matrix.shape)
    fewer.eliminate_zeros()
    known = np.asarray(matrix.sum(axis=1)).ravel()
    others = rng.binomial(np.maximum(np.rint(counts.n_counts - known), 0).astype(np.int64), share)
    totals = np.asarray(fewer.sum(axis=1)).ravel() + others
    return replace(counts, matrix=fewer, n_counts=np.maximum(totals, 1.0).astype(np.float64))


def components(reference: CellCounts, query: CellCounts, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return reference and query on components of the reference's variable genes, ``(n, k)`` each."""
    from scipy import sparse

    from geneformer_grn.cells.counts import log_normalised
    from geneformer_grn.evaluation.label_features import expression_components

    log = sparse.vstack([log_normalised(reference), log_normalised(query)], format="csr")
    placed = expression_components(log, np.arange(len(reference)), seed=seed)
    return placed[: len(reference)], placed[len(reference) :]


def agreement(
    reference: np.ndarray, query: np.ndarray, labels: np.ndarray, truth: np.ndarray, *,
    own: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Return whether the nearest reference cells of each cell mostly have its label.

    Parameters
    ----------
    reference, query
        ``(n, d)`` and ``(m, d)``.
    labels, truth
        ``(n,)`` and ``(m,)`` str.
    own
        ``(m,)`` row of the reference that is the cell itself and does not count; None: it is not there.

    Returns
    -------
    ``(m,)`` float64, 0 or 1; of labels equally frequent the first counts.
    """
    near = _directions(query, reference) @ _directions(reference, reference).T
    if own is not None:
        near[np.arange(len(query)), own] = -np.inf
    k = min(NEIGHBOURS, len(reference) - (own is not None))
    nearest = np.argpartition(-near, k - 1, axis=1)[:, :k]
    names, codes = np.unique(labels, return_inverse=True)
    votes = np.zeros((len(query), len(names)))
    np.add.at(votes, (np.arange(len(query))[:, None], codes[nearest]), 1)
    return np.asarray(names[votes.argmax(axis=1)] == truth, dtype=np.float64)


def cosines(reference: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Return the cosine of each cell with the reference cell of its row, less the mean of the reference."""
    return np.asarray((_directions(reference, reference) * _directions(query, reference)).sum(axis=1))


def _directions(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    centred = values.astype(np.float64) - reference.mean(axis=0)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
