"""Finding the same cells in several files, and saying where they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from geneformer_grn._runtime import atomic_path, write_json
from geneformer_grn.cells.counts import read_counts
from geneformer_grn.cells.duplicates import MIN_EQUAL, MIN_GENES, find_duplicates
from geneformer_grn.cells.reading import ReadSettings
from geneformer_grn.genes.vocabulary import GeneVocabulary


def write_duplicates(
    files: Sequence[Path],
    vocabulary: GeneVocabulary,
    out: Path,
    *,
    keep: Sequence[Path] = (),
    settings: ReadSettings | None = None,
) -> dict[str, Any]:
    """Write the table of cells that other files hold too, or the same file further up.

    Parameters
    ----------
    files
        Files of raw counts. All counts are held in memory at once, 16 bytes a non-zero.
    vocabulary
        The genes that are compared.
    out
        Tab-separated table to write, see :data:`geneformer_grn.cells.duplicates.COLUMNS`; what was asked and
        found stands beside it in ``OUT.json``.
    keep
        Files among them, or further ones, whose cells stay.
    settings
        How they are read.

    Returns
    -------
    dict
        ``table``, ``n_files``, ``n_cells``, ``n_copies``, ``pairs`` (``file``, ``kept_file``,
        ``n_cells``) and ``text`` for a reader.

    Raises
    ------
    FileNotFoundError, ValueError
        A file cannot be read, or two have one name.
    """
    paths = list(dict.fromkeys([*map(Path, files), *map(Path, keep)]))
    names = {path: path.name for path in paths}
    counts = [read_counts(path, vocabulary, settings, name=names[path]) for path in paths]
    table = find_duplicates(counts, len(vocabulary), stay=[names[Path(path)] for path in keep])
    with atomic_path(out) as temporary:
        table.to_csv(temporary, sep="\t", index=False)
    pairs = table.groupby(["file", "kept_file"], sort=True).size().reset_index(name="n_cells")
    facts = {
        "n_files": len(paths),
        "n_cells": sum(len(cells.kept) for cells in counts),
        "n_copies": len(table),
        "pairs": pairs.to_dict("records"),
    }
    rules = {"min_genes": MIN_GENES, "min_equal": MIN_EQUAL, "keep": [names[Path(path)] for path in keep]}
    write_json(out.with_name(f"{out.name}.json"), {**facts, **rules, "files": list(names.values())})
    return {"table": out, **facts, "text": _text(facts)}


def _text(facts: dict[str, Any]) -> str:
    lines = [f"{facts['n_copies']:,} of {facts['n_cells']:,} cells in {facts['n_files']} files are copies"]
    lines += [
        f"  {row['n_cells']:,} of {row['file']} are in {row['kept_file']}"
        + (", further up" if row["file"] == row["kept_file"] else "")
        for row in facts["pairs"]
    ]
    return "\n".join(lines)
