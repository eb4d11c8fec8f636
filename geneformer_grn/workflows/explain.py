"""Which genes made a fine-tuned model say so: tables, a deletion curve, and figures of both.

What both faces call: ``geneformer-grn explain`` and ``gg.tl.explain``. Each method's ranking comes with the
curve that says whether it is faithful, beside the genes that a plain rank-sum test puts first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from geneformer_grn._runtime import (
    library_versions,
    logger,
    package_version,
    plain_json,
    staged_folder,
    write_json,
)
from geneformer_grn.cells.counts import CellCounts, read_counts
from geneformer_grn.cells.ranking import rank_cells
from geneformer_grn.workflows.explain_options import (
    ExplainOptions,
    ExplainSource,
    Explanation,
)

if TYPE_CHECKING:
    from geneformer_grn.explanation.target import Explained
    from geneformer_grn.model.heads import Finetuned

__all__ = ["ExplainOptions", "ExplainSource", "Explanation", "explain_counts", "explain_file"]


def explain_file(source: ExplainSource, out: Path, options: ExplainOptions) -> dict[str, Any]:
    """Explain the cells of a file, and write tables and figures into a folder, all or none.

    Parameters
    ----------
    source
        The cells and the fine-tuned models.
    out
        Folder to write.
    options
        What to do.

    Returns
    -------
    What was done, and the main figures of each method.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        The file or a model is missing, or a folder holds no fine-tuned model; `out` is a file.
    ValueError
        See `explain_counts`.
    """
    from geneformer_grn.model.head_files import load_finetuned

    with staged_folder(out) as folder:
        models = [
            load_finetuned(name, device=source.device, precision=source.precision) for name in source.models
        ]
        explained = _heads(models, options)
        counts = read_counts(source.file, explained[0].vocabulary, source.read)
        found = _explained(explained, counts, options)
        for name in ("cells", "scores"):
            getattr(found, name).to_parquet(folder / f"{name}.parquet", index=False)
        for name in ("drivers", "deletion", "agreement"):
            getattr(found, name).to_csv(folder / f"{name}.tsv", sep="\t", index=False)
        _draw(found, folder)
        write_json(
            folder / "parameters.json",
            {"verb": "explain", "file": source.file, "read": asdict(source.read), **found.record,
             "versions": library_versions()},
        )  # fmt: skip
    return found.facts


def explain_counts(models: Sequence[Finetuned], counts: CellCounts, options: ExplainOptions) -> Explanation:
    """Explain cells that are in memory.

    Parameters
    ----------
    models
        Fine-tuned models with one task in common; several are of its folds, and are averaged.
    counts
        Cells read with their vocabulary, best ones that they did not learn from.
    options
        What to do.

    Raises
    ------
    ModuleNotFoundError
        Integrated gradients without captum.
    ValueError
        The models differ in vocabulary or classes, have no such task, know no such class, or no cell has a
        class to explain.

    Examples
    --------
    >>> options = ExplainOptions(label="cell_type", methods=("occlusion",), n_cells=80)
    >>> explain_counts([model], counts, options).drivers.head()  # doctest: +SKIP
    """
    return _explained(_heads(models, options), counts, options)


def _heads(models: Sequence[Finetuned], options: ExplainOptions) -> list[Explained]:
    """Return the head of each model, the same task, vocabulary and classes in all of them."""
    from geneformer_grn.explanation.target import choose_head

    if not models:
        raise ValueError("nothing to explain: name a fine-tuned model")
    heads = [choose_head(model, options.task) for model in models]
    first = heads[0]
    for head in heads[1:]:
        if head.vocabulary.fingerprint != first.vocabulary.fingerprint:
            raise ValueError("the models have different vocabularies: they are no folds of one task")
        if (head.spec.name, head.names) != (first.spec.name, first.names):
            raise ValueError(
                f"the models predict different things: {first.spec.name} ({', '.join(first.names)}) and "
                f"{head.spec.name} ({', '.join(head.names)})"
            )
        if head.model.max_length != first.model.max_length:
            raise ValueError("the models read cells of different lengths: they are no folds of one task")
    return heads


def _explained(heads: list[Explained], counts: CellCounts, options: ExplainOptions) -> Explanation:
    from geneformer_grn.workflows.explain_cells import choose_cells, expression_ranks
    from geneformer_grn.workflows.explain_work import RIVAL, MethodFound, deletion_rows, main_figures

    ranked = rank_cells(counts, heads[0].vocabulary)
    chosen = choose_cells(heads, counts, ranked, options)
    names, ids = heads[0].names, heads[0].vocabulary.ensembl_ids
    expression = expression_ranks(counts, chosen, names, ids, seed=options.seed)
    tables: dict[str, list[pd.DataFrame]] = {
        name: [] for name in ("drivers", "agreement", "cells", "scores", "deletion")
    }
    for method in options.methods:
        found = MethodFound(heads, ranked, chosen, options, method)
        drivers, agreement = found.drivers(expression)
        tables["drivers"].append(drivers)
        tables["agreement"].append(agreement)
        tables["cells"].append(found.cells())
        tables["scores"].append(found.scores())
        curves = {(method, ranking): curve for ranking, curve in found.deletions().items()}
        if method == options.methods[-1] and len(expression):
            curves[RIVAL, "class"] = found.rival(expression)
        tables["deletion"] += [
            deletion_rows(curve, names, chosen.donors, seed=options.seed, method=name, ranking=ranking)
            for (name, ranking), curve in curves.items()
        ]
    joined = {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items()}
    lead = ["method", "ranking", "class"]
    joined["deletion"] = joined["deletion"][[*lead, *joined["deletion"].columns.difference(lead, sort=False)]]
    facts = {
        **chosen.facts,
        "task": heads[0].spec.name,
        "n_models": len(heads),
        "methods": main_figures(joined["deletion"], joined["cells"], options.attribution.tolerance),
    }
    _tell(facts)
    return Explanation(**joined, facts=facts, record=_record(heads, counts, options, facts))


def _record(
    heads: list[Explained], counts: CellCounts, options: ExplainOptions, facts: dict[str, Any]
) -> dict[str, Any]:
    return plain_json(  # type: ignore[no-any-return]  # a dictionary stays one
        {
            "package_version": package_version(),
            "models": [head.model.encoder.name for head in heads],
            "vocabulary_fingerprint": heads[0].vocabulary.fingerprint,
            "parameters": asdict(options),
            "found": facts,
            "cells": counts.report,
        }
    )


def _tell(facts: dict[str, Any]) -> None:
    """Say of each method whether its genes matter more than random ones of the same rank."""
    for method, figures in facts["methods"].items():
        for ranking, row in figures.items():
            if isinstance(row, dict):
                logger.info(
                    "%s, genes of each %s: without the leading %.0f %% the output falls by %.2f, without "
                    "random ones of the same rank by %.2f (difference %.2f, 95 %% interval %.2f to %.2f)",
                    method, ranking, 100 * row["share"], row["drop_named"], row["drop_random"], row["excess"],
                    row["excess_low"], row["excess_high"],
                )  # fmt: skip


def _draw(found: Explanation, folder: Path) -> None:
    from geneformer_grn.report.drawing import to_png
    from geneformer_grn.report.explanation_figures import deletion_figure, driver_genes_figure

    first = found.drivers["method"].iloc[0]
    ranking = "class" if (found.deletion["ranking"] == "class").any() else "cell"
    (folder / "deletion.png").write_bytes(to_png(deletion_figure(found.deletion, ranking=ranking)))
    drivers = found.drivers[found.drivers["method"] == first]
    (folder / "drivers.png").write_bytes(to_png(driver_genes_figure(drivers)))
