"""The screen of ``validate``: facts, what is refused, what is worth knowing, and the commands that come next.

Plain text without colours, so that it reads the same in a terminal, in a file and in an issue.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from geneformer_grn.cells.reading import ReadSettings
from geneformer_grn.workflows.validation import Validation

_WIDTH = 100
_N_COLUMNS = 12


def screen(found: Validation, path: Path, *, model: str = "") -> str:
    """Return what was found as text of some 30 lines.

    Parameters
    ----------
    found
        What was found.
    path
        What commands call the file.
    model
        Options that name the vocabulary, for these commands.
    """
    head = found.name
    if found.kind:
        head += f": {found.kind}, {found.n_cells:,} cells × {found.n_genes:,} genes"
    lines = [head]
    for name, texts in _facts(found):
        for number, text in enumerate(texts):
            lines += _wrapped(text, f"  {name if number == 0 else '':<11}")
    for title, findings in (("refused because", found.problems), ("worth knowing", found.notes)):
        if findings:
            lines.append(f"{title}:")
            for finding in findings:
                lines += _wrapped(finding.what, "  - ")
                if finding.way_out and finding.way_out not in finding.what:
                    lines += _wrapped(finding.way_out, "    → ")
    lines.append("what to do:")
    lines += [f"  {command}" for command in next_commands(found, path, model=model)]
    return "\n".join(lines)


def one_line(found: Validation) -> str:
    """Return what was found of one file among several, in a line."""
    if found.usable:
        lost = 100 * found.genes.get("share_counts_lost", 0.0)
        notes = f"; {len(found.notes)} notes" if found.notes else ""
        return (
            f"{found.name}: usable; {found.kind}, {found.n_cells:,} cells × {found.n_genes:,} genes, "
            f"{lost:.1f} % of counts lost{notes}"
        )
    more = f" (and {len(found.problems) - 1} more)" if len(found.problems) > 1 else ""
    return f"{found.name}: refused; {found.problems[0].what}{more}"


def next_commands(found: Validation, path: Path, *, model: str = "") -> list[str]:
    """Return the commands that come next: with options that help, or the work itself."""
    file = shlex.quote(str(path))
    shared = f" {model}" if model else ""
    if (changed := found.way_out) is not None:
        return [f"geneformer-grn validate {file}{shared}{_options(changed)}"]
    if found.problems:
        return ["see above; no option helps by itself"]
    options = f"{shared}{_options(found.settings)}"
    needed = [
        option
        for option, wanted in (
            (" --sum-duplicates", found.genes.get("n_repeated_ids")),
            (" --drop-empty", found.cells is not None and found.cells.n_empty),
        )
        if wanted
    ]
    return [
        f"nothing: geneformer-grn run {file} --out DIR{options}{''.join(needed)}",
        f"or:      geneformer-grn tokenize {file} --out CORPUS{options}",
    ]


def _options(settings: ReadSettings) -> str:
    """Return the options that name settings; what ``tokenize`` does by itself is left out."""
    found = ""
    for one in fields(settings):
        value, name = getattr(settings, one.name), f" --{one.name.replace('_', '-')}"
        if one.name in {"sum_duplicates", "drop_empty"} or value in {None, False, one.default}:
            continue
        found += name if value is True else f"{name} {shlex.quote(str(value))}"
    return found


def _facts(found: Validation) -> Iterator[tuple[str, list[str]]]:
    """Yield the name and the lines of each kind of facts."""
    if found.kind:
        stored = "" if found.n_stored is None else f", {found.n_stored:,} stored values"
        yield "matrix", [f"{found.matrix}, {found.layout}, {found.dtype}{stored}{_zeros(found)}"]
    if found.values is not None:
        yield "values", list(_values(found))
    if found.genes:
        yield "genes", list(_genes(found))
    if found.cells is not None:
        yield "cells", list(_cells(found))
        columns = [f"{name} ({number:,})" for name, number in found.cells.obs.items()]
        more = f" and {len(columns) - _N_COLUMNS} more" if len(columns) > _N_COLUMNS else ""
        yield "obs", [f"{', '.join(columns[:_N_COLUMNS]) or 'no columns'}{more}"]
    if found.needs is not None:
        held = f"verbs that run the model hold {found.needs.known_mb:,.1f} MB of counts beside that"
        yield (
            "memory",
            [f"{found.needs.peak_mb:,.0f} MB at most in this look (tokenize: a little more); {held}"],
        )
        if found.needs.seconds is not None:
            yield "time", [f"reading and ranking all cells takes {_duration(found.needs.seconds)} here"]


def _zeros(found: Validation) -> str:
    if found.values is None:
        return ""
    n_all = found.values.n_cells * found.n_genes
    return f", {100 * (1 - found.values.n_nonzero / n_all):.1f} % zeros"


def _values(found: Validation) -> Iterator[str]:
    facts = found.values
    if facts is None:
        return
    seen = facts.seen
    shown = f"{seen.minimum:,.6g} to {seen.maximum:,.6g}"
    if seen.n_not_finite:
        reason = f"{seen.n_not_finite:,} are NaN or infinite"
    elif seen.first_fraction is None:
        reason = f"whole numbers, {shown}"
    else:
        reason = f"fractions among them (first {seen.first_fraction:,.4g}), {shown}"
    looked = "a sample of" if found.quick else "all"
    yield f"{facts.looks}: {looked} {facts.n_looked:,} looked at, {reason}"
    if facts.totals and seen.minimum >= 0:
        kind = "sums with log1p undone" if facts.looks == "log-normalised" else "total counts"
        yield f"{kind} per cell: {_quartiles(facts.totals)}"
    if facts.elsewhere:
        yield f"raw counts seem to be in {', '.join(facts.elsewhere)}, too"


def _genes(found: Validation) -> Iterator[str]:
    genes = found.genes
    naming = {"ensembl": "Ensembl IDs", "symbol": "symbols", "mixed": "Ensembl IDs and symbols"}
    yield (
        f"{naming[genes['naming']]} in {genes['identifiers']}, {genes['looks_like']}; "
        f"{genes['n_matched']:,} of {genes['n_genes']:,} match, {genes['n_lost']:,} lost, "
        f"{genes['n_summed']:,} summed, {genes['n_ambiguous']:,} ambiguous, "
        f"{genes.get('n_repeated_ids', 0):,} repeated IDs"
    )
    lost = f"{100 * genes['share_counts_lost']:.1f} % of the counts" if "share_counts_lost" in genes else ""
    first = f"such as {', '.join(genes['first_lost'][:3])}" if genes["first_lost"] else ""
    if genes.get("n_without_ortholog"):
        first += f"; {genes['n_without_ortholog']:,} have no one-to-one human ortholog"
    if lost and genes["n_lost"]:
        yield f"lost: {lost}, {first}"


def _cells(found: Validation) -> Iterator[str]:
    cells = found.cells
    if cells is None:
        return
    left = f"{cells.n_filtered:,} left out by filter_pass"
    if found.settings.where is not None:
        left += f", {cells.n_not_asked:,} by --where"
    looked = f" of {found.values.n_cells:,} looked at" if found.quick and found.values is not None else ""
    yield f"{cells.n_read:,} read, {left}; {cells.n_empty:,}{looked} have no known gene"
    read = f"the model reads the first {cells.longest:,}"
    yield f"known genes per cell: {_quartiles(cells.known_genes)}; {read}"
    yield f"total counts from {'the sum of the file' if cells.totals_from == 'file' else cells.totals_from}"


def _quartiles(values: list[float]) -> str:
    low, first, middle, third, high = (
        f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values
    )
    return f"median {middle} (quarters {first} and {third}, from {low} to {high})"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "less than a second"
    return f"about {seconds:,.0f} s" if seconds < 120 else f"about {seconds / 60:,.0f} min"


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=indent, subsequent_indent=" " * len(indent), break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
