"""Cells that must not meet: in two corpora to merge, in two parts of a split, in training and validation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from geneformer_grn._runtime import logger
from geneformer_grn.cells.corpora.corpus import Corpus
from geneformer_grn.cells.corpora.folder import column_codes
from geneformer_grn.cells.corpora.identity import file_rows, repeated_cells

PERSONS = ("donor", "donor_id", "patient", "patient_id", "individual", "subject", "sample", "sample_id")
"""Columns that a split by something else is warned about, where they tie its parts together."""


def files_in_both(corpus: Corpus, other: Corpus) -> list[str]:
    """Return the files of `other` whose cells may be those of `corpus`, by their names in `other`."""
    return shared_files(corpus.manifest["files"], other.manifest["files"])


def shared_files(files: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names in `others` of files whose cells may be among those of `files`.

    Files are known by their sha256. Cells of one file that a split put into different parts are not the same
    cells: the split checked that, and both entries carry its id.

    Parameters
    ----------
    files, others
        Entries of a corpus's manifest, or of a record of a training: ``name``, ``sha256`` and, of a part of
        a split, ``splits``.
    """
    known: dict[str, list[dict[str, Any]]] = {}
    for entry in files:
        known.setdefault(entry["sha256"], []).append(entry)
    return [
        entry["name"]
        for entry in others
        if not all(_set_apart(entry, same) for same in known.get(entry["sha256"], ()))
    ]


def _set_apart(entry: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether one split put the two into different parts."""
    parts = {split["id"]: split["part"] for split in other.get("splits", ())}
    return any(parts.get(split["id"], split["part"]) != split["part"] for split in entry.get("splits", ()))


def require_different_rows(corpora: Sequence[Corpus], names: Sequence[str]) -> None:
    """Raise where two corpora hold the same rows of one file."""
    held: dict[str, list[tuple[int, str, np.ndarray]]] = {}
    entries = [
        (number, entry)
        for number, corpus in enumerate(corpora)
        for entry in corpus.manifest["files"]
        if entry["n_cells"]
    ]
    often = Counter(entry["sha256"] for _, entry in entries)
    for number, entry in entries:
        if often[entry["sha256"]] == 1:
            continue
        rows = file_rows(corpora[number], entry["name"])
        for other, name, known in held.setdefault(entry["sha256"], []):
            both = 0 if other == number else len(np.intersect1d(known, rows))
            if both:
                raise ValueError(
                    f"{both:,} cells are in two corpora: {name} in {names[other]} and {entry['name']} in "
                    f"{names[number]} are one file (same sha256); they would count twice. Leave one corpus "
                    "out, or tokenize that file for one of them only"
                )
        held[entry["sha256"]].append((number, entry["name"], rows))


def require_different_cells(corpora: Sequence[Corpus], names: Sequence[str]) -> None:
    """Raise where cells of two corpora have the same tokens."""
    sizes = [len(corpus) for corpus in corpora]
    labels = np.repeat(np.arange(len(corpora), dtype=np.int32), sizes)
    pairs = repeated_cells(corpora, labels)
    if not len(pairs):
        return
    starts = np.cumsum([0, *sizes])
    places: Counter[tuple[str, str]] = Counter()
    where = np.empty(pairs.shape, dtype=object)
    for number, corpus in enumerate(corpora):
        inside = (pairs >= starts[number]) & (pairs < starts[number + 1])
        sources = corpus.table.column("source").take(pa.array(pairs[inside] - starts[number])).to_pylist()
        where[inside] = [f"{source} of {names[number]}" for source in sources]
    places.update(map(tuple, where.tolist()))
    shown = "; ".join(f"{n:,} of {a} and {b}" for (a, b), n in places.most_common(3))
    more = f"; and {len(places) - 3} more pairs of files" if len(places) > 3 else ""
    raise ValueError(
        f"{len(pairs):,} cells have the same tokens in two corpora ({shown}{more}); they would count twice. "
        "Tokenize one of the files without them, or leave it out"
    )


def require_apart(
    corpus: Corpus, part: np.ndarray, names: Sequence[str], *, by: str, apart: Sequence[str]
) -> None:
    """Raise where a value of a column in `apart` is in two parts; only warn for one of :data:`PERSONS`.

    `part` is the place in `names` of each cell's part, `by` the column that was split by.
    """
    asked = list(apart)
    hinted = [name for name in PERSONS if name in corpus.columns and name not in {*asked, by}]
    for column in [*asked, *hinted]:
        codes, texts = column_codes(corpus, column)
        known = codes >= 0
        there = np.zeros((len(texts), len(names)), dtype=bool)
        there[codes[known], part[known]] = True
        shared = sorted(np.flatnonzero(there.sum(axis=1) > 1).tolist(), key=texts.__getitem__)
        if column in asked and not known.all():
            logger.warning(
                "%s cells have no %s: whether they tie the parts together is not known",
                f"{int((~known).sum()):,}", column,
            )  # fmt: skip
        if not shared:
            continue
        cells = int(np.isin(codes, shared).sum())
        shown = "; ".join(
            f"{texts[value]} in {' and '.join(names[n] for n in np.flatnonzero(there[value]).tolist())}"
            for value in shared[:3]
        )
        more = f"; and {len(shared) - 3} more" if len(shared) > 3 else ""
        leak = f"{len(shared)} {column} with {cells:,} cells are in more than one part ({shown}{more})"
        if column in asked:
            raise ValueError(f"{leak}; split --by {column}, or give their groups to one part with --assign")
        logger.warning("%s: split --by %s where that is a leak, or refuse it with --apart %s",
                       leak, column, column)  # fmt: skip


def require_no_cell_twice(corpus: Corpus, part: np.ndarray, names: Sequence[str], *, by: str) -> None:
    """Raise where cells of the same tokens are in two parts."""
    pairs = repeated_cells([corpus], part)
    if not len(pairs):
        return
    column = corpus.table.column(by)
    groups = np.array([column.take(pa.array(side)).to_pylist() for side in pairs.T], dtype=object).T
    parts = part[pairs]
    places = Counter(
        (f"{a} ({names[p]})", f"{b} ({names[q]})")
        for (a, b), (p, q) in zip(groups.tolist(), parts.tolist(), strict=True)
    )
    shown = "; ".join(f"{count:,} of {a} and {b}" for (a, b), count in places.most_common(3))
    more = f"; and {len(places) - 3} more pairs of groups" if len(places) > 3 else ""
    raise ValueError(
        f"{len(pairs):,} cells have the same tokens as one in another part ({shown}{more}): what is held out "
        f"would be trained on. Give these groups of {by} to one part with --assign, split by a "
        "column that keeps them together, or leave one file out"
    )
