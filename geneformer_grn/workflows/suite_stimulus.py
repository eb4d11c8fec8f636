"""Suite: whether raising what interferon-beta acts through moves the genes that interferon moved in blood.

The stimulus itself is no gene that blood cells express, so its transcription factors stand for it. The cells
stimulated carry no type; they are given that of the nearest unstimulated kind, over genes left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geneformer_grn.workflows.suite_bench import Bench, column, rows_of
from geneformer_grn.workflows.suite_effects import Experiment, effect_rows

if TYPE_CHECKING:
    from scipy import sparse

    from geneformer_grn.cells.counts import CellCounts

COMPLEX = ("STAT1", "STAT2", "IRF9")
CELL_TYPES = ("CD14+ Monocytes", "CD4 T cells", "B cells")
STIMULATED = "IFNB"
N_CELLS = 12
MIN_EFFECT = 0.25  # of mean log-normalised expression: what rises takes its share from all others
_FDR = 0.05
_N_MARKERS = 500
LEAST_OF_TYPE = 20


@dataclass(frozen=True, eq=False, kw_only=True)
class Typed:
    """Cells with and without a stimulus, all of them typed.

    Parameters
    ----------
    types
        ``(n,)`` cell type.
    stimulated
        ``(n,)`` bool.
    accuracy
        Share of held-out unstimulated cells whose type is found the way that of stimulated cells is.
    """

    types: np.ndarray
    stimulated: np.ndarray
    accuracy: float

    def rows(self, kind: str, *, stimulated: bool) -> np.ndarray:
        """Return the cells of a type in a state."""
        return np.flatnonzero((self.types == kind) & (self.stimulated == stimulated))


def interferon_rows(bench: Bench) -> list[dict[str, Any]]:
    """Return the rows of interferon-beta: its complex of factors overexpressed in cells without stimulus.

    Measured is, type by type, stimulated less unstimulated cells. There is one stimulus, so that no other
    perturbation can be a baseline, and no interval over perturbations can be given.

    Raises
    ------
    ValueError
        The vocabulary lacks the factors, or a state has too few cells of the types.
    """
    from geneformer_grn.cells.counts import log_normalised
    from geneformer_grn.evaluation.effects import Measured
    from geneformer_grn.evaluation.responders import differential_expression
    from geneformer_grn.genes.mapping import find_genes
    from geneformer_grn.perturbation.requests import Request
    from geneformer_grn.workflows.evaluate_effects import cell_baselines

    vocabulary, counts = bench.encoder.vocabulary, bench.counts("interferon")
    ids = vocabulary.ensembl_ids
    genes = tuple(sorted(find_genes(COMPLEX, vocabulary), key=lambda token: ids[token]))
    gene = "+".join(ids[list(genes)])
    expression = log_normalised(counts)
    typed = typed_cells(counts, expression, seed=bench.seed)
    measured, requests, baselines = [], [], {}
    for kind in CELL_TYPES:
        control, treated = (typed.rows(kind, stimulated=state) for state in (False, True))
        if min(len(control), len(treated)) < LEAST_OF_TYPE:
            continue
        effect, q_value = differential_expression(expression[treated], expression[control])
        responds = (q_value <= _FDR) & (np.abs(effect) >= MIN_EFFECT)
        affected = ids[counts.column_tokens]
        measured.append(Measured(gene=gene, affected=affected, effect=effect, responds=responds, group=kind))
        cells = np.random.default_rng(bench.seed).permutation(control)[:N_CELLS]
        requests.append(Request(genes=genes, kind="overexpress", cells=np.sort(cells), group=kind))
        baselines[kind] = cell_baselines(rows_of(counts, control), vocabulary, [gene])
    if not requests:
        raise ValueError(
            f"{counts.name} has no type of {', '.join(CELL_TYPES)} with {LEAST_OF_TYPE} cells of either state"
        )
    experiment = Experiment(
        measured=measured, ranked=bench.ranked(counts), requests=requests, baselines=baselines,
        note=f"{N_CELLS} cells a type, {len(requests)} types; {' + '.join(COMPLEX)} overexpressed stand for "
        "the stimulus; stimulated cells carry no type and got that of the nearest control centroid (right "
        f"for {100 * typed.accuracy:.0f} % of held-out controls)",
    )  # fmt: skip
    return effect_rows(bench, experiment, data="Kang PBMC, interferon-beta")


def typed_cells(counts: CellCounts, expression: sparse.csr_matrix, *, seed: int) -> Typed:
    """Return cells of which the stimulated have the type of the most correlated unstimulated centroid.

    Parameters
    ----------
    counts
        Cells with the obs columns ``condition`` and ``cell_type``; the types of stimulated cells, and
        ``unknown``, are not read.
    expression
        ``(n, g)`` log-normalised. Types are told by genes that the stimulus leaves alone.
    seed
        Of the half of the unstimulated cells that the accuracy is measured on.

    Raises
    ------
    ValueError
        A column is missing, no type has enough unstimulated cells, or the stimulus moves every gene.
    """
    from geneformer_grn.evaluation.responders import differential_expression

    stimulated = column(counts, "condition") == STIMULATED
    labels = column(counts, "cell_type").astype(object)
    names, sizes = np.unique(labels[~stimulated].astype(str), return_counts=True)
    usable = names[(sizes >= LEAST_OF_TYPE) & (names != "unknown")]
    known = np.isin(labels.astype(str), usable) & ~stimulated
    if not known.any() or not stimulated.any():
        raise ValueError(f"{counts.name} needs {STIMULATED} cells and typed cells without it")
    _, q_value = differential_expression(expression[stimulated], expression[~stimulated])
    alone = np.flatnonzero(q_value > _FDR)  # NaN, in no cell, tells nothing
    if not len(alone):
        raise ValueError(f"{STIMULATED} moves every gene of {counts.name}: none is left to tell types by")
    quiet = expression[:, alone]
    order = np.random.default_rng(seed).permutation(np.flatnonzero(known))
    train, test = order[::2], order[1::2]
    accuracy = float((nearest_type(quiet, train, labels[train], test) == labels[test]).mean())
    rows = np.flatnonzero(~known)
    labels[rows] = nearest_type(quiet, np.flatnonzero(known), labels[known], rows)
    return Typed(types=labels, stimulated=stimulated, accuracy=accuracy)


def nearest_type(
    expression: sparse.csr_matrix, known: np.ndarray, labels: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Return for each of `rows` the label whose centroid over `known` cells it correlates with most.

    Over the genes in which the centroids differ most, `_N_MARKERS` of them.
    """
    names = np.unique(labels.astype(str))
    centroids = np.asarray(np.vstack([expression[known[labels == name]].mean(axis=0) for name in names]))
    markers = np.argsort(-centroids.std(axis=0), kind="stable")[:_N_MARKERS]
    found = np.corrcoef(centroids[:, markers], expression[rows][:, markers].toarray())
    return np.asarray(names.astype(object)[np.argmax(found[len(names) :, : len(names)], axis=1)])
