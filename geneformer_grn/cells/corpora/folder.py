"""The files of a corpus folder: shards carried over from another one, filtered, named, and what lies beside.

Shared by merging and splitting. Shards that need no change are hard links: neither time nor disk for tokens
that are there already. Finished shards are therefore never written to in place; a corpus is replaced whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from geneformer_grn._runtime import library_versions, sha256_file, write_json
from geneformer_grn.cells.corpora.corpus import Corpus
from geneformer_grn.cells.corpora.shards import CORPUS_KIND, MANIFEST

_BATCH_VALUES = 1 << 20  # tokens of a record batch
_SUMS = ("n_cells", "n_tokens", "n_cropped_cells", "n_cropped_genes")


def corpus_fingerprint(corpus: Corpus) -> str:
    """Return the sha256 of a corpus's ``manifest.json``, by which its descendants name it."""
    return sha256_file(corpus.path / MANIFEST)


def shard_paths(corpus: Corpus) -> list[Path]:
    """Return the shards of a corpus in the order of its cells."""
    state = json.loads((corpus.path / "state.json").read_text(encoding="utf-8"))
    return [corpus.path / item["filename"] for item in state["_data_files"]]


def entry_shards(entry: dict[str, Any]) -> list[str]:
    """Return the shards that hold the cells of one file of a manifest; none where no cell was kept."""
    return list(entry["shards"])


def read_shard(path: Path) -> pa.Table:
    """Return a shard, memory-mapped; its record batches are the chunks."""
    return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, or a copy where the file system has no such link."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def write_shard(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write record batches as one Arrow stream, small ones joined until they hold about a million tokens."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for batch in _joined(batches):
            writer.write_batch(batch)


def _joined(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    waiting: list[pa.RecordBatch] = []
    n_tokens = 0
    for batch in batches:
        if not batch.num_rows:
            continue
        size = _n_tokens(batch)
        if waiting and n_tokens + size > _BATCH_VALUES:
            yield _one(waiting)
            waiting, n_tokens = [], 0
        waiting.append(batch)
        n_tokens += size
    if waiting:
        yield _one(waiting)


def _one(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]


def _n_tokens(batch: pa.RecordBatch) -> int:
    offsets = batch.column(batch.schema.get_field_index("input_ids")).offsets
    return int(offsets[-1].as_py() - offsets[0].as_py())


def join_entries(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return one manifest entry for the cells of one file that came under several.

    Facts that agree stay, numbers of cells and tokens add up; ``n_elsewhere`` is what else the file holds.
    """
    first, *rest = entries
    if not rest:
        return {**first, "shards": entry_shards(first)}
    joined = {key: value for key, value in first.items() if all(entry.get(key) == value for entry in rest)}
    for key in ("n_not_sampled", "n_elsewhere"):
        joined.pop(key, None)
    for key in _SUMS:
        if all(key in entry for entry in entries):
            joined[key] = sum(entry[key] for entry in entries)
        else:
            joined.pop(key, None)
    joined["shards"] = [shard for entry in entries for shard in entry_shards(entry)]
    if "n_cells_file" in joined:
        dropped = sum(value for key, value in joined.items() if key.startswith("n_dropped_"))
        joined["n_elsewhere"] = joined["n_cells_file"] - joined["n_cells"] - dropped
    return joined


def finish_corpus(
    folder: Path,
    shards: Sequence[str],
    entries: Sequence[dict[str, Any]],
    *,
    parents: Sequence[Corpus],
    facts: dict[str, Any],
) -> None:
    """Name the shards in `folder` as `datasets` does, and write what lies beside them.

    Parameters
    ----------
    folder
        Holds the shards.
    shards
        Their present names, in the order of the cells.
    entries
        One a source file, their ``shards`` under present names.
    parents
        Where the cells come from; the vocabulary is the first one's.
    facts
        Further content of the manifest: how the corpus came about.
    """
    names = {shard: f"data-{number:05d}-of-{len(shards):05d}.arrow" for number, shard in enumerate(shards)}
    for shard, name in names.items():
        (folder / shard).rename(folder / name)
    files = [{**entry, "shards": [names[shard] for shard in entry_shards(entry)]} for entry in entries]
    manifest = {
        "kind": CORPUS_KIND,
        "format": max(parent.manifest["format"] for parent in parents),
        "versions": library_versions(),
        "vocabulary": parents[0].manifest["vocabulary"],
        **facts,
        **_totals(files, [*parents[0].manifest, "n_elsewhere"]),
        "files": files,
    }
    write_json(folder / MANIFEST, manifest)
    parents[0].vocabulary.save(folder)
    write_dataset_files(folder, list(names.values()), parents[0].vocabulary.fingerprint)


def _totals(entries: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Return the sums over files of what is known of all; a reason to leave cells out that is absent is 0."""
    totals = {}
    for name in names:
        reason = name.startswith(("n_dropped_", "n_not_sampled", "n_elsewhere"))
        if reason or (name.startswith(("n_", "counts_")) and all(name in entry for entry in entries)):
            totals[name] = sum(entry.get(name, 0) for entry in entries)
    return totals


def write_dataset_files(folder: Path, shards: Sequence[str], fingerprint: str) -> None:
    """Write the files by which `datasets` knows a dataset of these shards."""
    information = {"description": CORPUS_KIND, "citation": "", "homepage": "", "license": ""}
    write_json(folder / "dataset_info.json", information)
    state: dict[str, Any] = {
        "_data_files": [{"filename": shard} for shard in shards],
        "_fingerprint": fingerprint[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    write_json(folder / "state.json", state)


def column_codes(corpus: Corpus, name: str) -> tuple[np.ndarray, list[str]]:
    """Return a column as ``(n,)`` int32 codes and the texts they stand for; -1 where empty or missing.

    Four bytes a cell, however long the texts.

    Raises
    ------
    ValueError
        There is no such column.
    """
    if name not in corpus.columns or pa.types.is_nested(corpus.table.schema.field(name).type):
        there = [column for column in corpus.columns if column not in {"input_ids", "counts"}]
        raise ValueError(
            f"corpus {corpus.path.name} has no column {name!r}; columns there: {', '.join(there)}"
        )
    encoded = corpus.table.column(name).cast(pa.string()).dictionary_encode().combine_chunks()
    texts = encoded.dictionary.to_pylist()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
    if "" in texts:
        codes = np.where(codes == texts.index(""), np.int32(-1), codes)
    return codes, texts
