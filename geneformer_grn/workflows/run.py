"""The main job: cells in; embedding, edges, perturbation effects, propagated effects and a report out.

Reads from top to bottom in `run_file`; each step is a function of `run_steps`. Everything is computed before
anything is written, and all outputs are written or none.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geneformer_grn._runtime import Precision, logger, staged_folder, write_json
from geneformer_grn.cells.counts import log_normalised
from geneformer_grn.cells.ranking import rank_cells
from geneformer_grn.network.edges import write_edges, write_table
from geneformer_grn.workflows.grouping import group_cells
from geneformer_grn.workflows.network import NetworkSettings, group_rows, with_symbols
from geneformer_grn.workflows.propagation import propagate_cells
from geneformer_grn.workflows.run_record import flat, record_of, warnings_of
from geneformer_grn.workflows.run_steps import (
    RunSettings,
    asked_genes,
    embed_input,
    extract_edges,
    hub_regulators,
    open_input,
    perturb_groups,
    umap_key,
)

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

__all__ = ["OUTPUTS", "RunResult", "RunSettings", "run", "run_demo", "run_file"]

OUTPUTS = (
    ("report.html", "this page: everything below, drawn and explained"),
    ("cells.h5ad", "the cells with their embedding (obsm X_geneformer), UMAP and groups"),
    ("edges.tsv", "regulator-target edges of every group, by attention and by co-expression"),
    (
        "effects.tsv",
        "how far deleting each gene moves the cells of each group, against genes matched on rank",
    ),
    ("propagated.tsv", "what each deletion does downstream through the edges, hop by hop"),
    ("run.json", "parameters, versions, seed, timings, fingerprints"),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class RunResult:
    """What the main job found.

    Parameters
    ----------
    cells
        The input's kept cells with embedding, UMAP and groups.
    edges, effects, propagated
        The tables that were written.
    summary
        Counts and file names, in plain values.
    """

    cells: AnnData
    edges: pd.DataFrame
    effects: pd.DataFrame
    propagated: pd.DataFrame
    summary: dict[str, Any]


@dataclass
class Timings:
    """Seconds of each step, in order."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time the body as `name`, and say that it began."""
        logger.info("%s ...", name)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)


def run(cells: Path | str | AnnData, out: Path | str, **settings: Any) -> RunResult:
    """Run the whole path from cells to a report.

    Parameters
    ----------
    cells
        A count file of any kind with raw counts, or an AnnData (left unchanged).
    out
        Folder for the outputs, made if needed: ``cells.h5ad``, ``edges.tsv``, ``effects.tsv``,
        ``propagated.tsv``, ``report.html``, ``run.json``.
    **settings
        Fields of `RunSettings`.

    Returns
    -------
    RunResult
        The tables and the AnnData that were written; ``cells.obsm["X_geneformer"]`` is ``(n, d)`` float32.

    Raises
    ------
    FileNotFoundError, ValueError, PermissionError
        The input or the call is wrong; nothing is written then.

    Examples
    --------
    >>> import geneformer_grn as gg
    >>> result = gg.run("cells.h5ad", "out", groups="cell_type")  # doctest: +SKIP
    >>> result.edges.head()  # doctest: +SKIP
    """
    return run_file(cells, Path(out), RunSettings(**settings))


def run_demo(
    out: Path,
    *,
    seed: int = 0,
    device: str = "auto",
    precision: Precision = "fp32",
    token_budget: int = 16_384,
) -> RunResult:
    """Run the main job on 180 of the immune cells that ship with the package, with at most 320 passes."""
    settings = RunSettings(
        n_cells=180, max_passes=320, n_hubs=4, cells_per_gene=8, n_null=30, seed=seed, name="demo cells",
        device=device, precision=precision, token_budget=token_budget,
    )  # fmt: skip
    logger.info(
        "demo: a sample of %d shipped immune cells and at most %d passes, to end within a minute. The cells "
        "carry no labels: they are clustered and the clusters named by marker genes.",
        settings.n_cells, settings.max_passes,
    )  # fmt: skip
    with as_file(files("geneformer_grn") / "_demo" / "cells.h5ad") as path:
        return run_file(path, out, settings)


def run_file(source: Path | str | AnnData, out: Path, settings: RunSettings) -> RunResult:
    """Run the main job, see `run`."""
    timings = Timings()
    with staged_folder(out) as staging:
        with timings.step("reading cells and model"):
            _require_other_files(source, out)
            adata, encoder, counts = open_input(source, settings)
            vocabulary = encoder.vocabulary
            asked = asked_genes(settings, vocabulary)
            ranked = rank_cells(counts, vocabulary)
        with timings.step("grouping cells"):
            grouping = group_cells(
                counts, log_normalised(counts),
                column=settings.groups, vocabulary=vocabulary, seed=settings.seed,
            )  # fmt: skip
            group_rows(grouping.labels, len(counts), NetworkSettings().min_cells)
        with timings.step("embedding cells"):
            cells = embed_input(adata, encoder, counts, ranked=ranked, grouping=grouping, settings=settings)
        with timings.step("extracting edges"):
            network = extract_edges(
                encoder, counts, ranked=ranked, labels=grouping.labels, asked=asked, settings=settings
            )
        with timings.step("perturbing genes"):
            genes = asked.perturb or hub_regulators(network, vocabulary, n_hubs=settings.n_hubs)
            screen, left_out = perturb_groups(
                encoder, ranked, grouping.labels,
                counts=counts, network=network, genes=genes, settings=settings,
            )  # fmt: skip
        with timings.step("propagating effects"):
            propagated = propagate_cells(
                network.edges, counts, vocabulary,
                sources=vocabulary.ensembl_ids[genes].tolist(), kind="delete", labels=grouping.labels,
            )  # fmt: skip
        effects = with_symbols(screen.effects, vocabulary)
        record = record_of(
            source, settings, encoder=encoder, counts=counts, grouping=grouping,
            network=network, screen=screen,
            warnings_found=warnings_of(counts, network, left_out=left_out, unknown=asked.unknown),
        )  # fmt: skip
        record["umap"] = umap_key(adata)
        with timings.step("writing"):
            provenance = cells.uns.get("geneformer_grn", {})
            cells.uns["geneformer_grn"] = {**provenance, "run": flat(record)}
            cells.write_h5ad(staging / "cells.h5ad", compression="gzip")
            write_edges(network.edges, staging / "edges.tsv", universe=network.universe)
            write_table(effects, staging / "effects.tsv")
            write_table(propagated.effects, staging / "propagated.tsv")
            record["timings_s"] = timings.seconds
            write_json(staging / "run.json", record)
            _write_report(
                staging / "report.html", record, cells, network.edges,
                effects=effects, signed=propagated.edges, propagated=propagated.effects,
            )  # fmt: skip
    logger.info("wrote %s: %s", out, ", ".join(name for name, _ in OUTPUTS))
    return RunResult(
        cells=cells,
        edges=network.edges,
        effects=effects,
        propagated=propagated.effects,
        summary={
            "out": Path(out).name,
            "n_cells": len(counts),
            "groups": network.universe.n_cells,
            "n_edges": len(network.edges),
            "n_effects": len(effects),
            "n_propagated": len(propagated.effects),
            "seconds": timings.seconds,
            "outputs": [name for name, _ in OUTPUTS],
        },
    )


def _require_other_files(source: Path | str | AnnData, out: Path) -> None:
    """Raise if an output would replace the input."""
    if not isinstance(source, str | Path):
        return
    for name, _ in OUTPUTS:
        if (Path(out) / name).resolve() == Path(source).resolve():
            raise ValueError(f"the output {name} would replace the input; name another folder by --out")


def _write_report(
    path: Path, record: dict[str, Any], cells: AnnData, edges: pd.DataFrame, **tables: Any
) -> None:
    from geneformer_grn.report.page import render_report
    from geneformer_grn.workflows.run_report import report_content

    page = render_report(report_content(record, cells, edges, outputs=OUTPUTS, **tables))
    path.write_text(page, encoding="utf-8")
