"""Effects along the edges of a file, from the command line: read, propagate, write."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd

from geneformer_grn._runtime import library_versions, logger, write_json
from geneformer_grn.genes.table import load_gene_table
from geneformer_grn.network.edges import (
    check_destination,
    read_universe,
    write_edges,
    write_table,
)
from geneformer_grn.network.formats import read_network
from geneformer_grn.network.propagation import propagate
from geneformer_grn.workflows.cells import OpenSettings, open_cells
from geneformer_grn.workflows.propagation import PropagateRequest, find_sources, propagate_opened


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
    edges = _of_method(read_network(edges_path), request.edge_method)
    sources = find_sources(request.sources, edges)
    refitted = None
    if expression is None:
        effects = _along_own_weights(edges, sources, request)
    else:
        if opening.groups is None and (universe := read_universe(edges_path)) is not None:
            opening = replace(opening, groups=universe.groups_column)
        cells = open_cells(expression, opening, with_model=request.settings.method == "rerank")
        result = propagate_opened(edges, cells, request, sources=sources)
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
