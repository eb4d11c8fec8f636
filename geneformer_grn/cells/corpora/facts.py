"""What a corpus is, in one screen: for people who find one and ask what is in it and how to open it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from geneformer_grn.cells.corpora.corpus import Corpus
from geneformer_grn.cells.corpora.folder import column_codes, shard_paths

_QUANTILES = {"least": 0.0, "lower quartile": 0.25, "median": 0.5, "upper quartile": 0.75, "most": 1.0}
_REASONS = {
    "n_dropped_filter": "filtered out",
    "n_dropped_where": "not asked for",
    "n_dropped_copies": "copies of other cells",
    "n_dropped_empty": "empty",
    "n_dropped_min_genes": "too few known genes",
    "n_dropped_min_counts": "too few counts",
    "n_not_sampled": "not sampled",
    "n_elsewhere": "not in this corpus",
}
_SHOWN_VALUES = 5
_SHOWN_FILES = 12
_NO_VALUES = ("input_ids", "length", "cell_id")


def corpus_facts(corpus: Corpus) -> dict[str, Any]:
    """Return what a corpus is, in plain values; no cell is named.

    Parameters
    ----------
    corpus
        Opened; its tokens are not read.

    Returns
    -------
    dict
        ``path`` (absolute), ``n_cells``, ``n_tokens``, ``genes_per_cell`` (quantiles; special tokens do not
        count), ``mean_length``, ``longest`` (tokens), ``vocabulary``, ``files`` (``name``, ``n_cells`` kept,
        ``n_cells_file``, ``left_out``: reason -> cells), ``columns`` (``name``, ``type``, and of texts
        ``n_values``, ``n_missing``, ``top``: the most frequent values with their cells, unless they are
        nearly as many as cells), ``split`` and ``merged`` where that is where it comes from, ``n_shards``,
        ``bytes``, ``open_with``.

    Examples
    --------
    >>> corpus_facts(Corpus.open("corpus"))["n_cells"]  # doctest: +SKIP
    120
    """
    manifest, lengths = corpus.manifest, corpus.lengths
    genes = lengths - corpus.vocabulary.n_wrapping
    shards = shard_paths(corpus)
    folder = corpus.path.resolve()
    split = manifest.get("split")
    return {
        "path": str(folder),
        "n_cells": len(corpus),
        "n_tokens": int(corpus.offsets[-1]),
        "genes_per_cell": {
            name: round(float(value), 1)
            for name, value in zip(
                _QUANTILES, np.quantile(genes, list(_QUANTILES.values())) if len(genes) else [], strict=False
            )
        },
        "mean_length": round(float(lengths.mean()), 1),
        "longest": int(lengths.max()),
        "vocabulary": manifest["vocabulary"],
        "files": [_file_facts(entry) for entry in manifest["files"]],
        "columns": [_column_facts(corpus, field) for field in corpus.table.schema],
        **({"split": {key: split[key] for key in ("part", "by", "seed", "parent")}} if split else {}),
        **({"merged": [item["corpus"] for item in manifest["merged"]]} if "merged" in manifest else {}),
        "n_shards": len(shards),
        "bytes": sum(shard.stat().st_size for shard in shards),
        "open_with": [
            f'datasets.load_from_disk("{folder}")',
            f'datasets.load_dataset("arrow", data_files="{folder}/*.arrow", split="train")',
        ],
    }


def _file_facts(entry: dict[str, Any]) -> dict[str, Any]:
    left_out = {reason: entry[key] for key, reason in _REASONS.items() if entry.get(key)}
    return {
        "name": entry["name"],
        "n_cells": entry["n_cells"],
        "n_cells_file": entry.get("n_cells_file"),
        "left_out": left_out,
    }


def _column_facts(corpus: Corpus, field: pa.Field) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": field.name, "type": str(field.type)}
    if field.name in _NO_VALUES or pa.types.is_nested(field.type):
        return facts
    codes, texts = column_codes(corpus, field.name)
    known = codes[codes >= 0]
    counts = np.bincount(known, minlength=len(texts))
    n_values = int((counts > 0).sum())
    facts |= {"n_values": n_values, "n_missing": len(codes) - len(known)}
    if n_values and 2 * n_values <= len(known):  # more would name single cells
        order = np.lexsort((np.array(texts, dtype=object).argsort().argsort(), -counts))[:_SHOWN_VALUES]
        facts["top"] = [[texts[code], int(counts[code])] for code in order if counts[code]]
    return facts


def facts_text(facts: dict[str, Any]) -> str:
    """Return the facts of :func:`corpus_facts` for reading: one screen, however many files and columns."""
    genes = ", ".join(f"{name} {value:,g}" for name, value in facts["genes_per_cell"].items())
    vocabulary = facts["vocabulary"]
    lines = [
        ("corpus", facts["path"]),
        ("cells", f"{facts['n_cells']:,}"),
        ("tokens", f"{facts['n_tokens']:,}; the longest cell has {facts['longest']:,}"),
        ("genes a cell", genes),
        (
            "vocabulary",
            f"{vocabulary['fingerprint'][:12]} ({vocabulary['setting']}, {vocabulary['n_genes']:,} genes, "
            f"at most {vocabulary['max_length']:,} tokens a cell)",
        ),
        ("on disk", f"{_size(facts['bytes'])} in {facts['n_shards']:,} shards"),
    ]
    if split := facts.get("split"):
        lines.append(
            ("split", f"{split['part']} of {split['parent']['name']} by {split['by']}, seed {split['seed']}")
        )
    if merged := facts.get("merged"):
        lines.append(("merged from", _some(merged, _SHOWN_FILES)))
    lines += _labelled("files", [_file_line(entry) for entry in facts["files"][:_SHOWN_FILES]])
    if (more := len(facts["files"]) - _SHOWN_FILES) > 0:
        kept = sum(entry["n_cells"] for entry in facts["files"][_SHOWN_FILES:])
        lines.append(("", f"and {more:,} more with {kept:,} cells"))
    lines += _labelled("columns", [_column_line(column) for column in facts["columns"]])
    lines += _labelled("open with", facts["open_with"])
    width = max(len(label) for label, _ in lines) + 2
    return "\n".join(f"{label.ljust(width)}{value}" for label, value in lines)


def _labelled(label: str, values: list[str]) -> list[tuple[str, str]]:
    return [(label if number == 0 else "", value) for number, value in enumerate(values)]


def _file_line(entry: dict[str, Any]) -> str:
    total = "" if entry["n_cells_file"] is None else f" of {entry['n_cells_file']:,}"
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in entry["left_out"].items())
    return f"{entry['name']}: {entry['n_cells']:,}{total} cells" + (f" ({left_out})" if left_out else "")


def _column_line(column: dict[str, Any]) -> str:
    line = f"{column['name']} ({column['type']})"
    if "n_values" in column:
        line += f": {column['n_values']:,} values"
        if "top" in column:
            shown = ", ".join(f"{_short(value)} {count:,}" for value, count in column["top"])
            line += f": {shown}" + (", ..." if column["n_values"] > len(column["top"]) else "")
        if column["n_missing"]:
            line += f"; {column['n_missing']:,} cells without"
    return line


def _short(text: str) -> str:
    return text if len(text) <= 30 else text[:29] + "…"


def _some(names: list[str], most: int) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def _size(n_bytes: int) -> str:
    size, unit = float(n_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}"
