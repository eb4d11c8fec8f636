"""What a count file is, whether it can be used, and what to do: everything that is found, in one go.

Verbs stop at the first thing that is wrong; here each is noted with its way out, and the look goes on.
Nothing is written. The whole file is read in blocks as ``tokenize`` reads it, ranks included, so that what is
said of values, losses, memory and time was seen and not guessed; a quick look at some cells is there, too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geneformer_grn._runtime import logger
from geneformer_grn.cells.filters import ChosenRows, choose_rows
from geneformer_grn.cells.judging import (
    counts_elsewhere,
    refuse_impossible,
    refuse_normalised,
    stored_values,
)
from geneformer_grn.cells.matching import map_identifiers
from geneformer_grn.cells.opening import open_source
from geneformer_grn.cells.reading import ReadSettings, lost_share, refuse_empty, warn_lost
from geneformer_grn.cells.source import CountSource
from geneformer_grn.genes.mapping import GeneMapping
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.workflows.validation import CellFacts, Finding, Needs, Validation, ValueFacts
from geneformer_grn.workflows.validation_pass import (
    Tally,
    looks_like,
    peak_memory_mb,
    quartiles,
    quick_rows,
    tally_rows,
)


def validate_file(
    path: Path | str,
    vocabulary: GeneVocabulary,
    settings: ReadSettings | None = None,
    *,
    quick: bool = False,
) -> Validation:
    """Say what a count file is, and all that is wrong with it.

    Parameters
    ----------
    path
        A file that :func:`geneformer_grn.cells.opening.open_source` may know, or not.
    vocabulary
        Whose genes are looked for.
    settings
        How it is to be read; default: as ``tokenize`` does, which adds repeated genes up and leaves empty
        cells out.
    quick
        Look at some 2,000 cells from four places instead of all.

    Returns
    -------
    Validation
        Facts, problems and notes; a file that cannot even be opened is a problem, too, and no error.

    Examples
    --------
    >>> found = validate_file("cells.h5ad", vocabulary)  # doctest: +SKIP
    >>> found.usable, [problem.what for problem in found.problems]  # doctest: +SKIP
    (True, [])
    """
    settings = settings or ReadSettings(sum_duplicates=True, drop_empty=True)
    found = Validation(name=Path(path).name, settings=settings, quick=quick)
    with ExitStack() as open_files:
        open_files.enter_context(_warnings_as_notes(found))
        source = None
        with found.refusals():
            source = open_files.enter_context(open_source(path, layer=settings.layer))
        if source is not None:
            _look(found, source, vocabulary)
    return found


def _look(found: Validation, source: CountSource, vocabulary: GeneVocabulary) -> None:
    """Fill in all that an opened file tells."""
    found.kind, found.matrix, found.layout = source.kind, source.label, source.layout
    found.dtype, found.n_stored = str(source.dtype), source.nnz
    found.n_cells, found.n_genes = source.shape
    chosen = _chosen_cells(found, source.obs)
    mapping = _match_genes(found, source, vocabulary)
    column = _totals_column(found, source.obs, vocabulary)
    rows = quick_rows(chosen.rows, seekable=source.matrix.seekable) if found.quick else chosen.rows
    tokens = np.full(found.n_genes, -1) if mapping is None else mapping.tokens
    with found.refusals():
        tally = tally_rows(source, rows, tokens, vocabulary)
        _judge_values(found, source, tally)
        _judge_cells(found, tally, mapping=mapping)
        if column is not None and tally.seen.first_fraction is None:  # others are summed
            _check_totals(found, source.obs[column], rows[tally.lengths > 0], column)
        found.cells = CellFacts(
            n_read=len(chosen.rows), n_filtered=chosen.n_filtered, n_not_asked=chosen.n_not_asked,
            n_empty=int((tally.lengths == 0).sum()), known_genes=quartiles(tally.lengths),
            longest=vocabulary.max_length - vocabulary.n_wrapping,
            obs={str(name): int(source.obs[name].nunique()) for name in source.obs.columns},
            totals_from="file" if column is None else f"obs[{column!r}]",
        )  # fmt: skip
        share = len(chosen.rows) / len(rows)
        found.needs = Needs(
            peak_mb=peak_memory_mb(),
            known_mb=float(tally.lengths.sum()) * share * 8 / 1e6,  # float32 and int32 a value
            # The first cells of what is put in order before it is read say nothing of all.
            seconds=tally.seconds * share if source.matrix.seekable or share == 1 else None,
        )


def _chosen_cells(found: Validation, obs: pd.DataFrame) -> ChosenRows:
    """Return the rows to look at: those that are read, or all where that is refused."""
    where = found.settings.where
    for expression in (where, None) if where is not None else (None,):
        way_out = "drop the column filter_pass" if expression is None else "correct or leave out --where"
        with found.refusals(way_out):
            return choose_rows(obs, found.name, where=expression)
    rows = np.arange(len(obs), dtype=np.int64)
    return ChosenRows(rows=rows, n_filtered=0, n_not_asked=0, n_not_sampled=0)


def _match_genes(found: Validation, source: CountSource, vocabulary: GeneVocabulary) -> GeneMapping | None:
    """Return how the genes are matched; None where none is, with what other column or species would do."""
    settings, notes = found.settings, list(found.notes)
    column, species = settings.gene_column, settings.species
    ways = [(column, species), (column, "human"), (column, "mouse"), (None, "human"), (None, "mouse")]
    fits: dict[tuple[str | None, str], tuple[GeneMapping, str]] = {}
    refused = ""
    for way in dict.fromkeys(ways):
        try:
            fits[way] = map_identifiers(
                source.var, vocabulary, gene_column=way[0], species=way[1],  # type: ignore[arg-type]
                sum_duplicates=True, mapped=source.mapped, name=found.name,
            )  # fmt: skip
        except ValueError as error:
            refused = refused or str(error)
    found.notes[:] = notes  # what was warned of on the way belongs to ways that are not taken
    if (column, species) not in fits:
        others = [way for way in ways if way in fits and not _foreign(fits, way)]
        change = {"gene_column": others[0][0], "species": others[0][1]} if others else {}
        found.problems.append(Finding(refused, _gene_way_out(source, settings, change), change))
        return None
    mapping, identifiers = fits[column, species]
    looks = "mouse" if _foreign(fits, (column, "human")) else "human"
    if looks != species:
        what = f"its genes look like those of a {looks}, and are read as {species} ones"
        found.notes.append(Finding(what, f"pass --species {looks}", {"species": looks}))
    repeated = mapping.report.get("n_repeated_ids", 0)
    if repeated and settings.sum_duplicates:
        what = f"{repeated:,} rows repeat an Ensembl ID; their counts are added up"
        found.notes.append(Finding(what, "see that the tables were joined rightly"))
    if repeated and not settings.sum_duplicates:
        with found.refusals("pass --sum-duplicates", sum_duplicates=True):
            map_identifiers(
                source.var, vocabulary, gene_column=column, species=species, mapped=source.mapped,
                name=found.name,
            )  # fmt: skip
        found.notes[:] = [note for note in found.notes if "looks like mouse" not in note.what]
    found.genes = {**mapping.report, "identifiers": identifiers, "looks_like": looks}
    return mapping


def _foreign(
    fits: dict[tuple[str | None, str], tuple[GeneMapping, str]], way: tuple[str | None, str]
) -> bool:
    """Return whether mouse genes are behind a reading as human ones."""
    return way[1] == "human" and (way not in fits or "species_warning" in fits[way][0].report)


def _gene_way_out(source: CountSource, settings: ReadSettings, change: dict[str, Any]) -> str:
    if not change:
        columns = ", ".join(map(str, source.var.columns)) or "none"
        return f"name the var column with Ensembl IDs or symbols by --gene-column (there: {columns})"
    ways = [] if change["gene_column"] == settings.gene_column else ["leave --gene-column out"]
    return " and ".join(
        ways + ([] if change["species"] == settings.species else [f"pass --species {change['species']}"])
    )


def _totals_column(found: Validation, obs: pd.DataFrame, vocabulary: GeneVocabulary) -> str | None:
    """Return the obs column with total counts, as verbs choose it; None: they are summed."""
    column = found.settings.counts_column
    if column is None and vocabulary.setting != "default" and "n_counts" in obs:
        return "n_counts"
    if column is not None and column not in obs:
        there = ", ".join(map(str, obs.columns)) or "none"
        what = f"obs has no column {column!r}; columns there: {there}"
        found.problems.append(Finding(what, "correct or leave out --counts-column", {"counts_column": None}))
        return None
    return column


def _check_totals(found: Validation, values: pd.Series, rows: np.ndarray, column: str) -> None:
    """Note cells whose column of total counts holds no positive number."""
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64)[rows]
    if n_wrong := int((~(np.isfinite(numbers) & (numbers > 0))).sum()):
        what = f"obs[{column!r}] is not a positive number in {n_wrong:,} of {len(rows):,} cells"
        found.problems.append(Finding(what, "name another column by --counts-column, or repair it"))


def _judge_values(found: Validation, source: CountSource, tally: Tally) -> None:
    """Say what the values are, and what is refused for them."""
    seen, what = tally.seen, f"{source.label} of {found.name}"
    elsewhere = {
        place: option.removeprefix("pass --layer ") if option.startswith("pass") else None
        for place, option in counts_elsewhere(source).items()
    }
    found.values = ValueFacts(
        n_looked=tally.n_looked, n_nonzero=tally.n_nonzero, n_cells=len(tally.lengths), seen=seen,
        looks=looks_like(seen), totals=quartiles(tally.totals), elsewhere=elsewhere,
    )  # fmt: skip
    change: dict[str, Any] = {"layer": next(iter(elsewhere.values()))} if elsewhere else {}
    way_out = "get the file with the raw counts"
    if change:
        way_out = "leave --layer out" if change["layer"] is None else f"pass --layer {change['layer']}"
    ranks = _ranks_elsewhere(source) if looks_like(seen) == "scaled" and not change else ""
    ranked = {"layer": ranks, "allow_normalised": True} if ranks else change
    hint = f"; {ranks!r} looks log-normalised, and the order of a cell's genes mostly survives that"
    with found.refusals(way_out + hint if ranks else way_out, **ranked):
        refuse_impossible(seen, what, source)
    if seen.first_fraction is None or seen.n_not_finite or seen.minimum < 0:
        return
    if found.settings.allow_normalised:
        found.notes.append(Finding(f"{what} is {looks_like(seen)}, and not raw counts", way_out, change))
        return
    allowed = change or {"allow_normalised": True}
    with found.refusals(way_out if change else f"{way_out}, or pass --allow-normalised", **allowed):
        refuse_normalised(source, seen, what)


def _ranks_elsewhere(source: CountSource) -> str:
    """Return the layer that looks log-normalised, as scanpy leaves ``raw``; empty where there is none."""
    for _, option, sample in source.elsewhere():
        try:
            seen = stored_values(sample())
        except ValueError:  # that one is damaged, and not what was asked for
            continue
        if looks_like(seen) == "log-normalised" and option.startswith("pass --layer "):
            return option.removeprefix("pass --layer ")
    return ""


def _judge_cells(found: Validation, tally: Tally, *, mapping: GeneMapping | None) -> None:
    """Say what share of the counts is lost, and refuse that and empty cells as reading would."""
    seen = tally.seen
    if mapping is None or seen.minimum < 0 or seen.n_not_finite:
        return
    total, known = float(tally.totals.sum()), float(tally.known.sum())
    found.genes["share_counts_lost"] = 1.0 - known / total if total > 0 else 0.0
    with found.refusals("name its identifiers by --gene-column, or another vocabulary by --model"):
        lost = lost_share(found.name, mapping.report, total=total, known=known)
        warn_lost(found.name, mapping.report, lost)
    n_cells, n_empty = len(tally.lengths), int((tally.lengths == 0).sum())
    if n_empty == n_cells:
        with found.refusals():
            refuse_empty(found.name, mapping.report, n_cells=n_cells, n_empty=n_empty)
    elif not found.settings.drop_empty:
        with found.refusals("pass --drop-empty", drop_empty=True):
            refuse_empty(found.name, mapping.report, n_cells=n_cells, n_empty=n_empty)


@contextmanager
def _warnings_as_notes(found: Validation) -> Iterator[None]:
    """Note what readers warn of, and keep it off the log, where it would stand twice."""

    def keep(record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        text = record.getMessage().removeprefix(f"{found.name}: ")
        if not any(note.what == text for note in found.notes):
            found.notes.append(Finding(text))
        return False

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
