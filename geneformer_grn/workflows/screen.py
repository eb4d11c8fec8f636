"""The screen of many genes: estimated from a few passes a cell, the top of them then run exactly.

What both faces call: ``geneformer-grn screen`` and ``gg.tl.screen``. All that is reported as an effect was
run exactly. The estimate only decides for which genes, and a random sample of genes that is run exactly, too,
measures how well it did.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geneformer_grn._runtime import library_versions, package_version, plain_json, staged_folder, write_json
from geneformer_grn.cells.counts import CellCounts, read_counts
from geneformer_grn.workflows.perturb_job import PerturbJob, make_job
from geneformer_grn.workflows.perturb_parts import PerturbSource, PerturbWork, unfinished, weights_digest
from geneformer_grn.workflows.perturb_results import read_tables, record, remove_stale_tables
from geneformer_grn.workflows.perturb_tables import write_tables
from geneformer_grn.workflows.screen_options import ScreenOptions, ScreenTables
from geneformer_grn.workflows.screen_plan import Groups, ScreenCost, chosen, estimated, screen_cost
from geneformer_grn.workflows.screen_report import recall_facts, tell, with_shifts
from geneformer_grn.workflows.screen_work import ScreenWork

if TYPE_CHECKING:
    from geneformer_grn.model.encoder import Encoder

__all__ = ["ScreenOptions", "ScreenTables", "screen_counts", "screen_file"]

_COLUMNS = ["gene", "group", "n_cells", "estimate", "rank", "listed", "audited", "shift"]


def screen_file(source: PerturbSource, out: Path, options: ScreenOptions) -> dict[str, Any]:
    """Screen the genes of the cells of a file, and write the tables into a folder.

    Interrupted after the estimate, the same call goes on with its list and the parts that were run exactly.

    Parameters
    ----------
    source
        The cells and the model.
    out
        Folder to write; until then ``OUT.unfinished`` holds the work. Tables that an earlier run left there
        go.
    options
        What to do.

    Returns
    -------
    What was done, and the name of the model.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        The file is missing; `out` is a file.
    ValueError
        See `screen_counts`; the work folder belongs to another run.
    """
    from geneformer_grn.model.encoder import load_encoder

    with staged_folder(out) as folder:
        encoder = load_encoder(source.model, device=source.device, precision=source.precision)
        _require_possible(encoder, options)
        seed = options.perturb.seed
        counts = read_counts(source.file, encoder.vocabulary, source.read, n_cells=source.n_cells, seed=seed)
        job = make_job(counts, encoder.vocabulary, options.perturb)
        work = ScreenWork.open(unfinished(out), _facts(job, source, encoder, options))
        with work.kept_if_used():
            found = _screened(encoder, job, options, work)
        for name in ("genes", "effects", "cells"):
            getattr(found, name).to_parquet(folder / f"{name}.parquet", index=False)
        write_json(
            folder / "parameters.json",
            {"verb": "screen", "file": source.file, **found.record, "versions": library_versions()},
        )
        made = {path.name for path in folder.iterdir()}
    remove_stale_tables(out, made)
    shutil.rmtree(work.folder)
    return {"model": encoder.name, **found.facts}


def screen_counts(encoder: Encoder, counts: CellCounts, options: ScreenOptions) -> ScreenTables:
    """Screen the genes of cells that are in memory.

    Genes are ranked by the estimated cell shift, or with states by the size of the estimated shift towards
    the goal; per group the top of them is run exactly, in every cell that holds them. Where the share is
    left open and that would not take `least_saving` times fewer passes than running every gene, every gene
    is run, and said so.

    Parameters
    ----------
    encoder
        The model.
    counts
        Cells read with its vocabulary.
    options
        What to do.

    Raises
    ------
    ValueError
        A kind without an estimate, an encoder layer that the model lacks, or as in
        `geneformer_grn.workflows.perturb_job.make_job`.

    Examples
    --------
    >>> options = ScreenOptions(perturb=PerturbOptions(genes="all", n_null=0))
    >>> screen_counts(encoder, counts, options).facts["recall"]  # doctest: +SKIP
    """
    _require_possible(encoder, options)
    job = make_job(counts, encoder.vocabulary, options.perturb)
    with tempfile.TemporaryDirectory(prefix="geneformer-grn-") as name:
        return _screened(encoder, job, options, ScreenWork.open(Path(name) / "work", {}))


def _require_possible(encoder: Encoder, options: ScreenOptions) -> None:
    """Raise ValueError where the kind has no estimate or the model no such layer, before any cell is read."""
    from geneformer_grn.perturbation.first_order import require_estimate

    require_estimate(options.perturb.kind)
    encoder.require_layer(options.perturb.encoder_layer)


def _facts(
    job: PerturbJob, source: PerturbSource, encoder: Encoder, options: ScreenOptions
) -> dict[str, Any]:
    """Return all that the list and the bytes of the parts depend on."""
    asked = asdict(options)
    return plain_json(
        {
            "package_version": package_version(),
            **asked.pop("perturb"),
            **asked,
            "cells": job.digest(),
            "vocabulary": job.vocabulary.fingerprint,
            "file": source.file.name,
            "read": asdict(source.read),
            "n_cells": source.n_cells,
            "model": encoder.name,
            "weights": weights_digest(encoder),
            "device": encoder.device.type,
            "precision": encoder.precision,
        }
    )  # type: ignore[no-any-return]  # a dictionary stays one


def _screened(encoder: Encoder, job: PerturbJob, options: ScreenOptions, work: ScreenWork) -> ScreenTables:
    """Screen the genes of a job, with its work folder."""
    groups = Groups(job)
    genes = groups.tested(job)
    cost = screen_cost(options, job, n_pairs=int(genes["n_cells"].sum()), n_cells=len(groups.cells))
    if cost.is_estimated:
        known = work.chosen(lambda: _list_of(encoder, job, options, groups, cost))
        spent = int(known.pop("n_passes"))
        genes = genes.assign(**known)
    else:
        genes, spent = genes.assign(estimate=np.nan, listed=True, audited=False), 0
    run, effects, cells, facts = _run(encoder, job, genes[genes["listed"] | genes["audited"]], work.exact)
    genes = with_shifts(genes, effects, job)
    n_passes = facts["n_passes"] + spent
    facts |= {
        "n_genes_screened": len(genes),
        "n_genes_listed": int(genes["listed"].sum()),
        "n_passes_exact_run": cost.exact if cost.is_estimated else n_passes,
        "n_passes_estimate": spent,
        "n_passes": n_passes,
        "times_fewer_passes": cost.exact / n_passes if cost.is_estimated else 1.0,
        "is_estimated": cost.is_estimated,
        **(recall_facts(genes) if cost.is_estimated and options.audit else {}),
    }
    if cost.is_estimated:
        tell(facts)
    noted = record(run, facts, model=encoder.name, precision=encoder.precision)
    noted["parameters"] |= {name: value for name, value in asdict(options).items() if name != "perturb"}
    return ScreenTables(effects=effects, cells=cells, genes=genes[_COLUMNS], facts=facts, record=noted)


def _list_of(
    encoder: Encoder, job: PerturbJob, options: ScreenOptions, groups: Groups, cost: ScreenCost
) -> dict[str, np.ndarray]:
    """Return, for each request, its estimate and whether it is listed and audited; and the passes spent."""
    genes = groups.tested(job)
    estimates, spent = estimated(encoder, job, groups, cost.effort)
    code = genes["group"].map(groups.code)
    room = cost.exact / max(options.least_saving, 1.0) - spent - len(groups.cells)
    genes = chosen(genes.assign(estimate=estimates[code, genes["token"]]), options, room=int(room))
    known = {name: genes[name].to_numpy() for name in ("estimate", "listed", "audited")}
    return {**known, "n_passes": np.array(spent)}


def _run(
    encoder: Encoder, job: PerturbJob, genes: pd.DataFrame, folder: Path
) -> tuple[PerturbJob, pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Run some of the job's requests exactly in a work folder; return their job, effects, cells and facts."""
    from geneformer_grn.perturbation.noise import require_fine
    from geneformer_grn.perturbation.screen import Screen

    numbers = genes["request"].to_numpy()
    before = job.prepared
    requests = [before.screen.requests[number] for number in numbers]
    screen = Screen(
        cells_per_gene=before.screen.cells_per_gene, n_null=0, requests=requests,
        nulls={number: [] for number in range(len(requests))},
    )  # fmt: skip
    values = {field.name: getattr(before, field.name) for field in fields(before)}
    arrays = {name: value[numbers] for name, value in values.items() if isinstance(value, np.ndarray)}
    sets = list(dict.fromkeys(request.genes for request in requests))
    prepared = replace(before, sets=sets, screen=screen, **arrays)  # each array has a row per request
    part = replace(job, prepared=prepared)
    work = PerturbWork.open(folder, part.facts(), {})
    if encoder.precision == "bf16":
        require_fine(work.noise(part, encoder))
    work.run_share(part, (0, 1), encoder)
    tables = folder / "tables"
    shutil.rmtree(tables, ignore_errors=True)  # of a call that was killed here
    tables.mkdir()
    facts = write_tables(part, [work], tables)
    found = read_tables(tables, facts, {})
    return part, found.effects, found.cells, facts
