"""A gene network per cell group: counts and model joined, each method printed next to correlation.

Regulators and targets are fixed once for all groups, so that groups and methods can be compared over the same
pairs. Within a group only genes that enough of its cells express are scored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from geneformer_grn._runtime import logger
from geneformer_grn.cells.counts import CellCounts, log_normalised
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.network.edges import Universe
from geneformer_grn.network.methods import GENE_LIMITS, MODEL_FREE, ON_DEVICE
from geneformer_grn.network.scored import ScoredPairs, agreement, to_edges
from geneformer_grn.workflows.grouping import UNLABELLED
from geneformer_grn.workflows.regulators import choose_genes, detected

if TYPE_CHECKING:
    from scipy import sparse

    from geneformer_grn.cells.ranking import RankedCells
    from geneformer_grn.model.encoder import Encoder

Scorer = Callable[[np.ndarray, np.ndarray, np.ndarray], ScoredPairs]

METHODS = ("attention", *MODEL_FREE)
"""Methods that score edges here."""

ALL_CELLS = "all"
"""Name of the group where cells are not grouped."""


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """How networks are scored.

    Parameters
    ----------
    methods
        Of `METHODS`. Each is compared with correlation where that is among them, else with the first. Where
        all are asked for, those that cannot take so many genes are left out with a warning.
    regulators
        Symbols or Ensembl IDs; ``auto``: the vocabulary's transcription factors.
    top
        Edges kept per group and method.
    max_targets
        Targets: the genes whose log-normalised expression varies most, at most this many, and all regulators.
    min_cells
        Smaller groups are left out.
    min_support
        Cells of a group that must express a gene for it to be scored there, and, for attention, hold a pair.
    attention_layers
        Encoder layers to average over, counted from 0 at the input.
    attention_correction
        ``none`` or ``average_product``.
    token_budget
        Tokens in one packed batch.
    device
        Where regressions that are solved step by step run: ``auto``, ``cpu`` or ``cuda``.
    """

    methods: tuple[str, ...] = ("attention", "correlation")
    regulators: tuple[str, ...] | Literal["auto"] = "auto"
    top: int = 5000
    max_targets: int = 2000
    min_cells: int = 20
    min_support: int = 5
    attention_layers: tuple[int, ...] | Literal["all"] = "all"
    attention_correction: Literal["none", "average_product"] = "none"
    token_budget: int = 16_384
    device: str = "auto"

    def __post_init__(self) -> None:
        unknown = [method for method in self.methods if method not in METHODS]
        if unknown or not self.methods:
            raise ValueError(
                f"network method {', '.join(unknown) or '(none)'} is not available; "
                f"choose from {', '.join(METHODS)}, or all"
            )
        if len(set(self.methods)) < len(self.methods):
            raise ValueError(f"a network method is named twice: {', '.join(self.methods)}")
        for name, least in (("top", 1), ("max_targets", 1), ("min_cells", 3), ("min_support", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class NetworkResult:
    """Scored networks.

    Parameters
    ----------
    edges
        Edge table of all groups and methods, with ``source_symbol`` and ``target_symbol``; with two methods
        or more also ``agreement``, the percentile (0 to 100) of the pair under the method it is compared
        with.
    universe
        Pairs scored and parameters.
    agreement
        Group -> method -> how far it agrees with correlation (see `geneformer_grn.network.scored.agreement`).
    skipped
        Group -> number of cells, for groups that were too small.
    """

    edges: pd.DataFrame
    universe: Universe
    agreement: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)


def score_network(
    counts: CellCounts,
    vocabulary: GeneVocabulary,
    *,
    settings: NetworkSettings | None = None,
    encoder: Encoder | None = None,
    ranked: RankedCells | None = None,
    labels: np.ndarray | None = None,
    groups_column: str | None = None,
) -> NetworkResult:
    """Score the network of every cell group by every method.

    Parameters
    ----------
    counts
        The cells.
    vocabulary
        The vocabulary they were read with.
    settings
        See `NetworkSettings`.
    encoder, ranked
        The model, and the cells as it sees them; needed for attention only.
    labels
        ``(n,)`` str group of each cell; None: one group, ``all``.
    groups_column
        Where the labels come from, recorded in the universe.

    Raises
    ------
    ValueError
        Every group is too small, no regulator or target is expressed, or attention is asked for without a
        model.
    """
    settings = settings or NetworkSettings()
    expression = log_normalised(counts)
    groups, skipped = group_rows(labels, len(counts), settings.min_cells)
    if skipped:
        sizes = ", ".join(f"{group} ({size})" for group, size in skipped.items())
        logger.warning("no network for groups of fewer than %d cells: %s", settings.min_cells, sizes)
    regulators, targets = choose_genes(
        counts, expression, vocabulary,
        regulators=settings.regulators, groups=groups,
        max_targets=settings.max_targets, min_support=settings.min_support,
    )  # fmt: skip
    methods = _affordable(settings.methods, len(np.union1d(regulators, targets)))
    logger.info(
        "network: %d regulators × %d targets in %d group(s): %s",
        len(regulators), len(targets), len(groups), ", ".join(methods),
    )  # fmt: skip
    score = _scorers(expression, counts, vocabulary, settings, encoder=encoder, ranked=ranked)
    tables, agreements = [], {}
    for group, rows in groups.items():
        enough = detected(expression, counts, rows, settings.min_support)
        present = [np.array([gene for gene in genes if gene in enough]) for genes in (regulators, targets)]
        if not all(len(genes) for genes in present):
            logger.warning("group %r: too few cells express any regulator, or any target", group)
            continue
        scored = {method: score[method](rows, *present) for method in methods}
        tables += _tables(scored, settings.top, group)
        agreements[group] = _agreements(scored, settings.top)
    if not tables:
        raise ValueError(
            f"no group has a regulator and a target that {settings.min_support} of its cells express; give "
            "more cells, or other regulators"
        )
    universe = Universe(
        regulators=tuple(vocabulary.ensembl_ids[regulators]),
        targets=tuple(vocabulary.ensembl_ids[targets]),
        n_cells={group: len(rows) for group, rows in groups.items()},
        groups_column=groups_column,
        settings=asdict(settings)
        | {"methods": methods, "vocabulary": vocabulary.fingerprint}
        | {"model": encoder.name if encoder is not None else None},
    )
    edges = with_symbols(pd.concat(tables, ignore_index=True), vocabulary)
    return NetworkResult(edges=edges, universe=universe, agreement=agreements, skipped=skipped)


def with_symbols(table: pd.DataFrame, vocabulary: GeneVocabulary) -> pd.DataFrame:
    """Return a table with ``<column>_symbol`` for each of its columns ``source``, ``target`` and ``gene``."""
    symbol_of = dict(zip(vocabulary.ensembl_ids, vocabulary.symbols, strict=True))
    genes = [column for column in ("source", "target", "gene") if column in table.columns]
    return table.assign(**{f"{column}_symbol": table[column].map(symbol_of) for column in genes})


def group_rows(
    labels: np.ndarray | None, n_cells: int, min_cells: int
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Return the rows of every group that is large enough, and the sizes of the others.

    Cells without a label are in no group.

    Raises
    ------
    ValueError
        No group is large enough.
    """
    labels = np.full(n_cells, ALL_CELLS, dtype=object) if labels is None else labels
    if len(labels) != n_cells:
        raise ValueError(f"{len(labels):,} group labels were given for {n_cells:,} cells")
    names = sorted(set(labels) - {UNLABELLED})
    rows = {str(group): np.flatnonzero(labels == group) for group in names}
    skipped = {group: len(members) for group, members in rows.items() if len(members) < min_cells}
    kept = {group: members for group, members in rows.items() if group not in skipped}
    sizes = ", ".join(f"{group} ({size})" for group, size in skipped.items())
    if not kept:
        raise ValueError(
            f"no group has the {min_cells} cells that a network needs: {sizes or 'none is labelled'}; "
            "give more cells, or group them by a coarser column"
        )
    return kept, skipped


def _affordable(methods: tuple[str, ...], n_genes: int) -> tuple[str, ...]:
    """Return the methods without those that take fewer genes, where all methods were asked for.

    Raises
    ------
    ValueError
        A method was chosen by name and takes fewer genes.
    """
    too_many = [method for method in methods if n_genes > GENE_LIMITS.get(method, n_genes)]
    limits = ", ".join(f"{method} takes at most {GENE_LIMITS[method]:,}" for method in too_many)
    if too_many and set(methods) != set(METHODS):
        raise ValueError(
            f"{n_genes:,} regulators and targets are too many: {limits}; use fewer targets (--max-targets), "
            "or leave it out"
        )
    if too_many:
        logger.warning("left out, for %d regulators and targets: %s (--max-targets)", n_genes, limits)
    return tuple(method for method in methods if method not in too_many)


def _scorers(
    expression: sparse.csr_matrix,
    counts: CellCounts,
    vocabulary: GeneVocabulary,
    settings: NetworkSettings,
    *,
    encoder: Encoder | None,
    ranked: RankedCells | None,
) -> dict[str, Scorer]:
    """Return method -> function of (rows of the cells, regulator tokens, target tokens)."""
    gene_ids = vocabulary.ensembl_ids[counts.column_tokens]

    def from_counts(method: str) -> Scorer:
        infer, names = MODEL_FREE[method], vocabulary.ensembl_ids
        options = {"device": settings.device} if method in ON_DEVICE else {}

        def score(rows: np.ndarray, regulators: np.ndarray, targets: np.ndarray) -> ScoredPairs:
            genes = {"regulators": names[regulators], "targets": names[targets]}
            return infer(expression[rows], gene_ids, **genes, **options)

        return score

    scorers = {method: from_counts(method) for method in MODEL_FREE}
    if "attention" not in settings.methods:
        return scorers
    if encoder is None or ranked is None:
        raise ValueError("attention edges need a model and ranked cells; pass both, or leave attention out")
    vocabulary.require_same(
        encoder.vocabulary.fingerprint, this="the counts", other=f"model {encoder.name!r}"
    )
    from geneformer_grn.extraction.attention import AttentionSettings, attention_edges

    how = AttentionSettings(
        layers=settings.attention_layers,
        min_support=settings.min_support,
        correction=settings.attention_correction,
        token_budget=settings.token_budget,
    )

    def by_attention(rows: np.ndarray, regulators: np.ndarray, targets: np.ndarray) -> ScoredPairs:
        return attention_edges(
            encoder, ranked, regulators=regulators, targets=targets, settings=how, cells=rows
        )

    return {"attention": by_attention, **scorers}


def _other(method: str, methods: list[str]) -> str | None:
    """Return what a method is compared with: correlation, or for correlation the first other one."""
    others = [name for name in methods if name != method]
    return "correlation" if "correlation" in others else others[0] if others else None


def _tables(scored: dict[str, ScoredPairs], top: int, group: str) -> list[pd.DataFrame]:
    tables = []
    for method, pairs in scored.items():
        other = _other(method, list(scored))
        tables.append(to_edges(pairs, top=top, group=group, other=scored[other] if other else None))
    return tables


def _agreements(scored: dict[str, ScoredPairs], top: int) -> dict[str, dict[str, Any]]:
    reference = "correlation" if "correlation" in scored else next(iter(scored))
    return {
        method: {"with": reference, **agreement(pairs, scored[reference], top=top)}
        for method, pairs in scored.items()
        if method != reference
    }
