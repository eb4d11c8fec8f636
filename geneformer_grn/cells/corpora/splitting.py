"""One corpus as training, validation and test parts: whole groups to one part, and a leak is refused.

A held-out figure means something only if nothing of the held-out cells was trained on. Groups (donors, files,
cell types) are therefore never divided, cells that occur twice must be in one part, and columns named in
``apart`` must not share a value between parts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from geneformer_grn._runtime import logger, progress, staged_folder
from geneformer_grn.cells.corpora.corpus import Corpus
from geneformer_grn.cells.corpora.dealing import SplitSettings, assign_groups, deal_groups
from geneformer_grn.cells.corpora.folder import (
    column_codes,
    corpus_fingerprint,
    entry_shards,
    finish_corpus,
    join_entries,
    link_or_copy,
    read_shard,
    shard_paths,
    write_shard,
)
from geneformer_grn.cells.corpora.leaks import require_apart, require_no_cell_twice

_NO_GROUPS = ("input_ids", "counts", "length", "cell_id")


@dataclass(frozen=True, eq=False)
class _Plan:
    """Where everything goes: a part for each cell, and what the manifests say of it."""

    names: tuple[str, ...]
    part: np.ndarray
    record: dict[str, Any]


def split_corpus(path: Path | str, out: Path | str, settings: SplitSettings) -> dict[str, Corpus]:
    """Split a corpus into parts that share no group, each a corpus of its own; cells keep their order.

    Needs about 60 bytes of memory a cell, and a record batch for each part.

    Parameters
    ----------
    path
        The corpus.
    out
        Folder to write the parts into, ``out/train`` and so on: all of them or none. They must not be there.
    settings
        See :class:`SplitSettings`.

    Returns
    -------
    dict of str to Corpus
        The parts, opened. The manifest of each says under ``split`` what was split, by what and how, the
        groups of every part and its share of the cells.

    Raises
    ------
    FileNotFoundError, FileExistsError
        There is no such corpus; a part is there already.
    ValueError
        There is no such column, groups are empty or fewer than parts, or a leak was found: cells of the same
        tokens, or values of a column in `settings.apart`, in two parts.

    Examples
    --------
    >>> settings = SplitSettings(by="donor", fractions={"train": 0.9, "valid": 0.1})
    >>> parts = split_corpus("corpus", "parts", settings)  # doctest: +SKIP
    """
    corpus, out = Corpus.open(path), Path(out)
    corpus.require_vocabulary(corpus.vocabulary)
    _require_free(out, settings)
    plan = _plan(corpus, settings)
    by = plan.record["by"]
    require_apart(corpus, plan.part, plan.names, by=by, apart=plan.record["apart"])
    require_no_cell_twice(corpus, plan.part, plan.names, by=by)
    with staged_folder(out) as folder:
        shards = _write_shards(corpus, plan, folder)
        _finish(corpus, plan, folder, shards)
    parts = {name: Corpus.open(out / name) for name in plan.record["parts"]}
    logger.info("wrote %s: %s", out, ", ".join(f"{name} {len(part):,} cells" for name, part in parts.items()))
    return parts


def _require_free(out: Path, settings: SplitSettings) -> None:
    """Raise before the work where the parts have no place to go."""
    for name in settings.parts:
        if (out / name).exists():
            raise FileExistsError(f"{out / name} exists and is left as it is; choose another --out")
    if (out / "manifest.json").exists():
        raise FileExistsError(
            f"{out} is a corpus itself; parts inside it would go with it. Choose another --out"
        )


def _column(corpus: Corpus, name: str) -> str:
    """Return what a column is called in the corpus; ``file`` is its ``source``."""
    if name in _NO_GROUPS:
        raise ValueError(
            f"column {name!r} is no grouping of cells; use source or a column carried from obs "
            "(tokenize --columns donor)"
        )
    return "source" if name == "file" and name not in corpus.columns else name


def _plan(corpus: Corpus, settings: SplitSettings) -> _Plan:
    """Decide the part of every cell."""
    column = _column(corpus, settings.by)
    codes, groups, sizes = _groups(corpus, column)
    n_missing = int((codes < 0).sum())
    if n_missing and settings.missing is None:
        raise ValueError(
            f"{n_missing:,} of {len(corpus):,} cells have no {column}; say with --missing PART where they go "
            f"({', '.join(settings.parts)})"
        )
    names = settings.parts
    fixed = np.zeros(len(names), dtype=np.int64)
    if settings.missing is not None:
        fixed[names.index(settings.missing)] = n_missing
    if settings.fractions:
        if len(groups) < len(names):
            raise ValueError(
                f"{len(groups)} {column} ({', '.join(groups)}) cannot fill {len(names)} parts "
                f"({', '.join(names)}); ask for fewer parts or split by another column"
            )
        shares = np.array(list(settings.fractions.values()))
        part_of = deal_groups(sizes, shares, fixed=fixed, seed=settings.seed)
    else:
        part_of = assign_groups(groups, settings)
    of_missing = -1 if settings.missing is None else names.index(settings.missing)
    part = np.append(part_of, of_missing)[codes].astype(np.int8 if len(names) < 128 else np.int32)
    cells = np.bincount(part, minlength=len(names))
    if (cells > 0).sum() < 2:
        raise ValueError(
            f"all cells would go to {names[int(np.argmax(cells))]}; a split needs two parts. Assign some of "
            f"{', '.join(groups[:5])}{', ...' if len(groups) > 5 else ''} to another"
        )
    record = {
        "parent": {
            "name": corpus.path.resolve().name,
            "fingerprint": corpus_fingerprint(corpus),
            "n_cells": len(corpus),
        },
        "by": column,
        "seed": settings.seed,
        "apart": [_column(corpus, name) for name in settings.apart],
        "missing": settings.missing,
        "parts": {
            name: {
                "asked": settings.fractions[name] if settings.fractions else None,
                "share": round(int(cells[number]) / len(corpus), 6),
                "n_cells": int(cells[number]),
                "n_missing": int(fixed[number]),
                "groups": [groups[group] for group in np.flatnonzero(part_of == number)],
            }
            for number, name in enumerate(names)
            if cells[number]
        },
    }
    return _Plan(names, part, record)


def _groups(corpus: Corpus, column: str) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Return the group of each cell (-1: none), the groups by name, and their cells."""
    codes, texts = column_codes(corpus, column)
    sizes = np.bincount(codes[codes >= 0], minlength=len(texts))
    order = sorted(np.flatnonzero(sizes).tolist(), key=lambda code: texts[code])
    place = np.full(len(texts) + 1, -1, dtype=np.int32)  # the last one serves code -1
    place[order] = np.arange(len(order), dtype=np.int32)
    return place[codes], [texts[code] for code in order], sizes[order]


def _write_shards(corpus: Corpus, plan: _Plan, folder: Path) -> dict[str, dict[str, str]]:
    """Write the shards of all parts; return part -> parent's shard -> new shard, in order."""
    made: dict[str, dict[str, str]] = {name: {} for name in plan.record["parts"]}
    for name in made:
        (folder / name).mkdir()
    start = 0
    for place, path in enumerate(progress(shard_paths(corpus), desc="split", unit="shard")):
        table = read_shard(path)
        part = plan.part[start : start + table.num_rows]
        start += table.num_rows
        numbers = np.unique(part)
        for number in numbers.tolist():
            name, shard = plan.names[number], f"part-{place:05d}.arrow"
            if len(numbers) == 1:
                link_or_copy(path, folder / name / shard)
            else:
                write_shard(folder / name / shard, table.schema, _chosen(table, part == number))
            made[name][path.name] = shard
    return made


def _chosen(table: pa.Table, chosen: np.ndarray) -> Iterator[pa.RecordBatch]:
    """Yield the chosen rows of a shard, batch by batch."""
    start = 0
    for batch in table.to_batches():
        mask = chosen[start : start + batch.num_rows]
        start += batch.num_rows
        yield batch.filter(pa.array(mask))


def _finish(corpus: Corpus, plan: _Plan, folder: Path, shards: dict[str, dict[str, str]]) -> None:
    """Write manifest, vocabulary and the rest into each part."""
    identity = hashlib.sha256(json.dumps(plan.record, sort_keys=True).encode()).hexdigest()
    codes, sources = column_codes(corpus, "source")
    cell = (codes.astype(np.int64), plan.part.astype(np.int64))
    shape = (len(sources), len(plan.names))
    flat = np.ravel_multi_index(cell, shape)
    n_cells = np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape)
    n_tokens = np.bincount(flat, weights=corpus.lengths, minlength=shape[0] * shape[1]).reshape(shape)
    files: dict[str, list[dict[str, Any]]] = {}
    for entry in corpus.manifest["files"]:
        files.setdefault(entry["name"], []).append(entry)
    for name, made in shards.items():
        number = plan.names.index(name)
        entries = []
        for source in dict.fromkeys(entry["name"] for entry in corpus.manifest["files"]):
            if source not in sources or not n_cells[sources.index(source), number]:
                continue
            row = sources.index(source)
            entry = join_entries(files[source])
            here = int(n_cells[row, number])
            entry |= {
                "n_cells": here,
                "n_tokens": int(n_tokens[row, number]),
                "n_elsewhere": entry.get("n_elsewhere", 0) + entry["n_cells"] - here,
                "shards": [made[shard] for shard in entry_shards(entry) if shard in made],
                "splits": [*entry.get("splits", ()), {"id": identity, "part": name}],
            }
            entries.append({key: value for key, value in entry.items() if key not in _OF_ALL_CELLS})
        facts: dict[str, Any] = {}
        for key in ("settings", "seed", "merged"):
            if key in corpus.manifest:
                facts[key] = corpus.manifest[key]
        facts["split"] = {"id": identity, "part": name, **plan.record}
        finish_corpus(folder / name, list(made.values()), entries, parents=[corpus], facts=facts)


# Sums over the cells that the file had in the parent: not known of some of them.
_OF_ALL_CELLS = ("n_cropped_cells", "n_cropped_genes", "counts_total", "counts_known")
