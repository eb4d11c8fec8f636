"""The data card of a built corpus for reading: Markdown, every figure taken from the card's JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from geneformer_grn.workflows.corpus_card import NOT_STATED


def card_text(card: Mapping[str, Any]) -> str:
    """Return the card of :func:`data_card` as Markdown."""
    blocks = [
        "# Data card",
        _summary(card),
        "## What is in it",
        _table(
            (
                "part", "cells", "tokens", "files", "donors", "cells without a donor",
                "median genes a cell, cropped",
            ),
            [
                (
                    name, part["n_cells"], part["n_tokens"], part["n_files"], part["n_donors"],
                    part["n_cells_without_donor"], part["genes_per_cell"]["median"],
                )
                for name, part in card["parts"].items()
            ],
        ),
        "## What is over-represented in training",
        (
            "*Effective number*: so many equal groups would be as diverse (the exponential of the entropy of "
            "the shares of cells; of tokens, which is what a model reads, in brackets)."
        ),
        _table(
            ("by", "values", "effective number", "more than twice an equal share"),
            [
                (
                    by, shares["n_values"],
                    f"{shares['effective_number']:g} ({shares['effective_number_by_tokens']:g})",
                    ", ".join(shares["over_represented"]) or "none",
                )
                for by, shares in card["shares"].items()
            ],
        ),
        *_share_tables(card),
        "## Whose cells",
        _people_text(card),
        "## Files, and what was left out of them",
        _files_table(card),
        "## Copies found",
        _copies_text(card),
        "## Rules of quality",
        _rules_text(card),
    ]  # fmt: skip
    return "\n\n".join(blocks) + "\n"


def _summary(card: Mapping[str, Any]) -> str:
    recipe, vocabulary = card["recipe"], card["vocabulary"]
    licences = (
        "Every file that is trained on states a licence (below); read them before you give weights away."
        if card["may_be_shipped"]
        else "**Not to be shipped:** it holds files of no stated licence."
    )
    left = ", ".join(card["left_out_for_licence"])
    return (
        f"Built by `geneformer-grn corpus build {recipe['name']}` (version {card['geneformer_grn']}; sha256 "
        f"of the recipe `{recipe['sha256'][:16]}`). Vocabulary: {vocabulary['n_genes']:,} genes, "
        f"{vocabulary['medians']}, fingerprint `{vocabulary['fingerprint'][:12]}`. {licences}"
        + (f" Left out, since they state none: {left}." if left else "")
    )


def _share_tables(card: Mapping[str, Any]) -> list[str]:
    return [
        _table(
            (by, "cells", "share of cells", "share of tokens"),
            [
                (row["value"], row["n_cells"], _percent(row["share_cells"]), _percent(row["share_tokens"]))
                for row in shares["values"]
            ],
        )
        for by, shares in card["shares"].items()
        if by in {"tissue", "assay", "disease"}
    ]


def _people_text(card: Mapping[str, Any]) -> str:
    lines = []
    for fact, people in card["people"].items():
        if not people["share_stated"]:
            lines.append(f"- **{fact}**: not stated in any file. Nothing is known of the balance.")
            continue
        shown = ", ".join(f"{value} {n:,}" for value, n in people["values"].items())
        lines.append(f"- **{fact}**: stated for {_percent(people['share_stated'])} of the cells: {shown}.")
    train = card["parts"]["train"]
    lines.append(
        f"- **donors**: {train['n_donors']:,} are told apart by name; "
        f"{train['n_cells_without_donor']:,} cells name none, so how many people these are is not known."
    )
    return "\n".join(lines)


def _files_table(card: Mapping[str, Any]) -> str:
    rows = []
    for file in card["files"]:
        left = "; ".join(f"{n:,} {reason}" for reason, n in file["left_out"].items())
        untested = f" (not tested: {', '.join(file['untested'])})" if file["untested"] else ""
        rows.append(
            (
                file["name"], file["n_cells_file"], file["n_train"], file["n_held_out"],
                (left or "none") + untested, file["licence"] or NOT_STATED, file["source"] or NOT_STATED,
            )
        )  # fmt: skip
    header = ("file", "cells", "trained on", "held out", "left out, and why", "licence", "source")
    return _table(header, rows)


def _copies_text(card: Mapping[str, Any]) -> str:
    apart = ", ".join(f"{file['name']} ({file['n_cells']:,})" for file in card["kept_apart"]) or "none"
    found = card["duplicates"]
    pairs = [(pair["file"], pair["kept_file"], pair["n_cells"]) for pair in found["pairs"]]
    n_files = len(card["files"]) + len(card["kept_apart"])
    text = f"Cells were compared by their counts over {n_files} files. Kept apart, to judge on: {apart}."
    if found["whole_donors"]:
        text += " A labelled donor of whom one copy is kept apart or held out is left out whole."
    return text + "\n\n" + (_table(("cells of", "are in", "cells"), pairs) if pairs else "No copy was found.")


def _rules_text(card: Mapping[str, Any]) -> str:
    rules = [
        (kind.replace("_", "-"), name, value)
        for kind, some in card["rules"].items()
        for name, value in some.items()
        if value is not None
    ]
    return _table(("files that count", "rule", "threshold"), rules)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in rows:
        cells = [
            f"{cell:,}" if isinstance(cell, int | float) else str(cell).replace("|", "/") for cell in row
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
