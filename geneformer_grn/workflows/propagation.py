"""What a perturbation does downstream: edges refitted in each group's cells, then followed hop by hop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from geneformer_grn._runtime import library_versions, logger, write_json
from geneformer_grn.cells.counts import CellCounts, log_normalised
from geneformer_grn.genes.table import load_gene_table
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.network.edges import (
    check_destination,
    check_edges,
    read_edges,
    read_universe,
    write_edges,
    write_table,
)
from geneformer_grn.network.inference import Expression, mean_and_sd
from geneformer_grn.network.propagation import PropagationSettings, propagate
from geneformer_grn.network.refit import expression_change, refit_signed
from geneformer_grn.network.responses import marginal_response
from geneformer_grn.workflows.cells import OpenSettings, open_cells
from geneformer_grn.workflows.network import ALL_CELLS, with_symbols
from geneformer_grn.workflows.ordered_propagation import ordered_effects


@dataclass(frozen=True, kw_only=True)
class PropagatedResult:
    """Effects through a network.

    Parameters
    ----------
    effects
        ``source``, ``gene``, ``group``, ``hop``, ``effect`` and symbols: changes of mean log-normalised
        expression (of the visiting probability, for the random walk).
    edges
        The signed coefficients they travelled along: refitted edges of all groups, in the edge schema; none
        for ``ordered``.
    """

    effects: pd.DataFrame
    edges: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class PropagateRequest:
    """What is perturbed, and how its effects travel.

    Parameters
    ----------
    sources
        Genes, each perturbed on its own: symbols, Ensembl IDs, or names as the table has them.
    kind
        ``delete`` or ``overexpress``.
    edge_method
        Use only the edges of this method; None: all.
    settings
        Method and depth.
    regulators
        Of ``ordered``: genes that may regulate; None: the sources of the edges.
    """

    sources: tuple[str, ...]
    kind: str = "delete"
    edge_method: str | None = None
    settings: PropagationSettings = field(default_factory=PropagationSettings)
    regulators: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.kind not in {"delete", "overexpress"}:
            raise ValueError(f"perturbation kind {self.kind!r} does not propagate; use delete or overexpress")
        if self.regulators is not None and self.settings.method != "ordered":
            raise ValueError(
                f"regulators are named for the ordered response; {self.settings.method} follows the edges"
            )


def propagate_cells(
    edges: pd.DataFrame,
    counts: CellCounts,
    vocabulary: GeneVocabulary,
    *,
    sources: Sequence[str],
    kind: str = "delete",
    labels: np.ndarray | None = None,
    settings: PropagationSettings | None = None,
    regulators: Sequence[str] | None = None,
) -> PropagatedResult:
    """Refit edges to the cells of each group and follow each source's change through them.

    Edges of several methods are pooled: a pair that any of them kept may carry an effect, how strong and with
    which sign is decided by the refit.

    Parameters
    ----------
    edges
        Edge table; its groups are those of `labels`.
    counts
        The cells.
    vocabulary
        The vocabulary they were read with.
    sources
        Ensembl IDs to perturb, each on its own. In a group that does not express a source, or where the
        source regulates nothing, it has no rows (reported).
    kind
        ``delete`` or ``overexpress``, see `geneformer_grn.network.refit.expression_change`.
    labels
        ``(n,)`` str group of each cell; None: the edges are those of all cells.
    settings
        Method and depth. Expression is not predicted to fall below zero by ``iterated``. ``covariance``
        predicts the genes of the edges, whichever of them are connected; for ``ordered`` see
        `geneformer_grn.workflows.ordered_propagation.ordered_effects`.
    regulators
        Of ``ordered``: symbols or Ensembl IDs that may regulate; None: the sources of each group's edges.

    Raises
    ------
    ValueError
        The edges are of groups and `labels` is None, a group of the edges has no cells, or its edges' genes
        are not those of the cells.
    """
    checked = check_edges(edges)
    if "group" not in checked.columns:
        checked["group"] = ALL_CELLS
    expression = log_normalised(counts)
    gene_ids = vocabulary.ensembl_ids[counts.column_tokens]
    named = sorted(set(checked["group"].astype(str)) - {ALL_CELLS})
    if labels is None and named:
        raise ValueError(
            f"these are edges of the groups {', '.join(named[:5])}, and are refitted to the cells of each: "
            "the column of the groups is needed; name it by --groups"
        )
    if settings is not None and settings.method == "ordered":
        predicted = ordered_effects(
            checked, counts, vocabulary,
            sources=sources, kind=kind, labels=labels, regulators=regulators, seed=settings.seed,
        )  # fmt: skip
        return PropagatedResult(
            effects=with_symbols(predicted, vocabulary), edges=with_symbols(checked[:0], vocabulary)
        )
    effects, refitted = [], []
    for group, part in checked.groupby("group", sort=False):
        rows = np.arange(len(counts)) if labels is None else np.flatnonzero(labels == group)
        if len(rows) == 0:
            raise ValueError(
                f"the edges of group {group!r} have no cells here; name the column of the groups by --groups "
                f"(groups found: {', '.join(sorted(set(labels if labels is not None else [])))})"
            )
        inside = expression[rows]
        signed = refit_signed(part, inside, gene_ids)
        refitted.append(signed)
        mean, _ = mean_and_sd(inside)
        moved = _changes(signed, inside, gene_ids, sources=sources, kind=kind)
        if moved and settings is not None and settings.method == "covariance":
            genes = sorted({*signed["source"], *signed["target"]})
            effects.append(marginal_response(inside, gene_ids, moved, targets=genes, group=str(group)))
        elif moved:
            floor = dict(zip(gene_ids.tolist(), (-mean).tolist(), strict=True))
            effects.append(propagate(signed, moved, settings=settings, lowest=floor))
    empty = pd.DataFrame(columns=["source", "gene", "group", "hop", "effect"])
    return PropagatedResult(
        effects=with_symbols(pd.concat(effects, ignore_index=True) if effects else empty, vocabulary),
        edges=with_symbols(pd.concat(refitted, ignore_index=True), vocabulary),
    )


def find_sources(names: Sequence[str], edges: pd.DataFrame) -> list[str]:
    """Return the genes of an edge table that a user names, as the table writes them.

    Parameters
    ----------
    names
        Genes as the table has them, or symbols or Ensembl IDs in any case.
    edges
        A checked edge table.

    Raises
    ------
    ValueError
        A name is no gene of the table, or no name is given.
    """
    table = load_gene_table()
    genes = {str(gene).upper(): gene for gene in pd.unique(edges[["source", "target"]].to_numpy().ravel())}
    found, unknown = [], []
    for name in names:
        upper = name.strip().upper()
        gene = genes.get(upper) or genes.get(table.ensembl_of.get(upper, upper))
        if gene is None:
            unknown.append(name)
        else:
            found.append(gene)
    if unknown or not found:
        hubs = edges["source"].value_counts().index[:5]
        raise ValueError(
            f"{', '.join(map(repr, unknown)) or 'no gene'} is not among the {len(genes):,} genes of the "
            f"network; its largest regulators are {', '.join(table.symbol_of.get(hub, hub) for hub in hubs)}"
        )
    return list(dict.fromkeys(found))


def propagate_file(
    edges_path: Path | str,
    out: Path,
    request: PropagateRequest,
    *,
    expression: Path | str | None,
    opening: OpenSettings,
) -> pd.DataFrame:
    """Propagate along the edges of a file and write the effects and, after a refit, the signed edges.

    Without expression the edges' own weights are the coefficients, where they can be (see
    `geneformer_grn.network.propagation.signed_weights`), and each source moves by one unit.

    Parameters
    ----------
    edges_path
        Edge table.
    out
        Table of effects; ``<name>.parameters.json`` and, after a refit, ``<name>.edges.tsv`` are written
        beside it.
    request
        What is perturbed, and how effects travel.
    expression
        Cells to refit to.
    opening
        How those are read. Without a column of groups, the one that the edges were scored by is used.

    Returns
    -------
    DataFrame
        The effects.

    Raises
    ------
    FileNotFoundError, PermissionError, ValueError
        The input or the destination is wrong; nothing is written then.
    """
    check_destination(out)
    beside = out.name.removesuffix(".gz").removesuffix(".tsv")
    signed_path = out.with_name(f"{beside}.edges.tsv")
    if Path(edges_path).resolve() in {out.resolve(), signed_path.resolve()}:
        raise ValueError(f"writing {out.name} would replace the edges it is made from; name another --out")
    edges = _of_method(read_edges(edges_path), request.edge_method)
    sources = find_sources(request.sources, edges)
    refitted = None
    if expression is None:
        effects = _along_own_weights(edges, sources, request)
    else:
        if opening.groups is None and (universe := read_universe(edges_path)) is not None:
            opening = replace(opening, groups=universe.groups_column)
        cells = open_cells(expression, opening, with_model=False)
        result = propagate_cells(
            edges, cells.counts, cells.vocabulary,
            sources=sources, kind=request.kind, labels=cells.labels, settings=request.settings,
            regulators=request.regulators,
        )  # fmt: skip
        effects, refitted = result.effects, result.edges if len(result.edges) else None
    if effects.empty:
        raise ValueError(
            f"none of {', '.join(request.sources)} is expressed and regulates anything along these edges"
        )
    if refitted is not None:
        write_edges(refitted, signed_path)
    write_table(effects, out)
    parameters = asdict(request) | {
        "verb": "propagate", "edges": Path(edges_path), "groups": opening.groups,
        "expression": None if expression is None else Path(expression),
        "seed": request.settings.seed, "versions": library_versions(),
    }  # fmt: skip
    write_json(out.with_name(f"{beside}.parameters.json"), parameters)
    logger.info("wrote %d effects to %s", len(effects), out)
    return effects


def _along_own_weights(edges: pd.DataFrame, sources: list[str], request: PropagateRequest) -> pd.DataFrame:
    """Return the effects of moving each source by one unit of the table's own coefficients."""
    unit = {"delete": -1.0, "overexpress": 1.0}[request.kind]
    effects = propagate(edges, dict.fromkeys(sources, unit), settings=request.settings)
    symbol_of = load_gene_table().symbol_of
    return effects.assign(
        source_symbol=[symbol_of.get(gene, gene) for gene in effects["source"]],
        gene_symbol=[symbol_of.get(gene, gene) for gene in effects["gene"]],
    )


def _of_method(edges: pd.DataFrame, method: str | None) -> pd.DataFrame:
    """Return the edges of one method, all of them for None."""
    if method is None:
        return edges
    methods = sorted(edges["method"].unique()) if "method" in edges.columns else []
    if method not in methods:
        raise ValueError(
            f"no edges of method {method!r}; the table holds {', '.join(methods) or 'no methods'}"
        )
    return edges[edges["method"] == method].reset_index(drop=True)


def _changes(
    signed: pd.DataFrame, expression: Expression, gene_ids: np.ndarray, *, sources: Sequence[str], kind: str
) -> dict[str, float]:
    """Return the change of every source that regulates something here and is expressed."""
    group = signed["group"].iloc[0]
    regulating = [source for source in sources if source in set(signed["source"])]
    changes = expression_change(expression, gene_ids, genes=regulating, kind=kind)
    moved = {source: change for source, change in changes.items() if change != 0}
    idle = [source for source in sources if source not in moved]
    if idle:
        named = ", ".join(idle[:5]) + (f" and {len(idle) - 5} more" if len(idle) > 5 else "")
        logger.warning(
            "group %r: nothing to propagate from %s (no outgoing edge, or not expressed)", group, named
        )
    return moved
