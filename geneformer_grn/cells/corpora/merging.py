"""Several corpora as one: shards are linked, not copied, and only what must change is written again.

The same cell twice would count twice in training and hide in both halves of a later split, so cells that come
under two corpora are refused: rows of one file, known by its sha256, and any cells of the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from geneformer_grn._runtime import atomic_path, logger, progress
from geneformer_grn.cells.corpora.corpus import Corpus
from geneformer_grn.cells.corpora.folder import (
    corpus_fingerprint,
    finish_corpus,
    join_entries,
    link_or_copy,
    read_shard,
    shard_paths,
    write_shard,
)
from geneformer_grn.cells.corpora.leaks import require_different_cells, require_different_rows
from geneformer_grn.genes.vocabulary import VocabularyMismatchError

_ALWAYS = ("input_ids", "length", "cell_id", "source")


@dataclass(frozen=True)
class _Input:
    """A corpus to merge, as the user called it, and what its files are called in the result."""

    corpus: Corpus
    name: str
    renamed: Mapping[str, str]


def merge_corpora(
    paths: Sequence[Path | str], out: Path | str, *, columns: Sequence[str] | None = None
) -> Corpus:
    """Write several corpora of one vocabulary as one, cells in the order given.

    Needs about 60 bytes of memory a cell, and one record batch.

    Parameters
    ----------
    paths
        Corpus folders, two or more. Different files of one name are told apart as ``cells`` and ``cells~2``.
    out
        Folder to write, whole or not at all; must not be there yet.
    columns
        Columns to keep, besides the corpus's own; ``["common"]``: those that all have. None: all, and every
        corpus must have the same.

    Returns
    -------
    Corpus
        Opened. Its manifest names the inputs under ``merged``.

    Raises
    ------
    FileNotFoundError, FileExistsError
        An input is no corpus; `out` is there.
    VocabularyMismatchError
        The corpora were tokenized with different vocabularies.
    ValueError
        Their columns differ, or a cell is in two of them.

    Examples
    --------
    >>> merge_corpora(["lung", "heart"], "both")  # doctest: +SKIP
    """
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is left as it is; choose another --out")
    corpora = _open_all(paths)
    names = [str(path) for path in paths]
    _require_one_vocabulary(corpora, names)
    schema = _common_schema(corpora, names, columns)
    require_different_rows(corpora, names)
    require_different_cells(corpora, names)
    inputs = [
        _Input(corpus, name, renamed)
        for corpus, name, renamed in zip(corpora, names, _names_apart(corpora), strict=True)
    ]
    with atomic_path(out) as folder:
        folder.mkdir()
        shards, moved = _write_shards(folder, inputs, schema)
        entries = _entries(inputs, moved)
        finish_corpus(folder, shards, entries, parents=corpora, facts=_facts(inputs))
    merged = Corpus.open(out)
    logger.info("wrote %s: %s cells of %d corpora", out, f"{len(merged):,}", len(corpora))
    return merged


def _open_all(paths: Sequence[Path | str]) -> list[Corpus]:
    if len(paths) < 2:
        raise ValueError(f"merging takes two corpora or more; {len(paths)} given")
    seen: set[Path] = set()
    for path in map(Path, paths):
        if path.resolve() in seen:
            raise ValueError(f"{path} is given twice; its cells would count twice")
        seen.add(path.resolve())
    return [Corpus.open(path) for path in paths]


def _require_one_vocabulary(corpora: Sequence[Corpus], names: Sequence[str]) -> None:
    corpora[0].require_vocabulary(corpora[0].vocabulary)
    prints = [corpus.manifest["vocabulary"]["fingerprint"] for corpus in corpora]
    for name, found in zip(names, prints, strict=True):
        if found != prints[0]:
            raise VocabularyMismatchError(
                f"corpus {names[0]} has vocabulary {prints[0][:12]}, corpus {name} has {found[:12]}; a token "
                "of one means another gene in the other. Tokenize both with one --vocabulary"
            )


def _common_schema(
    corpora: Sequence[Corpus], names: Sequence[str], columns: Sequence[str] | None
) -> pa.Schema:
    """Return the columns of the result, in the first corpus's order."""
    there = [set(corpus.columns) for corpus in corpora]
    common = set.intersection(*there)
    if columns is None:
        for name, found in zip(names, there, strict=True):
            if found != there[0]:
                only = [f"{col!r} only in {names[0]}" for col in sorted(there[0] - found)]
                only += [f"{col!r} only in {name}" for col in sorted(found - there[0])]
                raise ValueError(
                    f"the corpora differ in their columns ({'; '.join(only)}); pass --columns common for "
                    "those that all have, or name the ones to keep"
                )
        wanted = common
    elif list(columns) == ["common"]:
        wanted = common
    else:
        wanted = {*columns, *_ALWAYS}
        for name, found in zip(names, there, strict=True):
            if lacking := sorted(wanted - found):
                raise ValueError(
                    f"corpus {name} has no column {lacking[0]!r}; columns that all have: "
                    f"{', '.join(sorted(common - set(_ALWAYS))) or 'none'}"
                )
    schema = pa.schema([field for field in corpora[0].table.schema if field.name in wanted])
    for corpus, name in zip(corpora, names, strict=True):
        for field in schema:
            found_type = corpus.table.schema.field(field.name).type
            if found_type != field.type:
                raise ValueError(
                    f"column {field.name!r} is {field.type} in {names[0]} and {found_type} in {name}; "
                    "leave it out with --columns, or tokenize one of them again"
                )
    return schema


def _names_apart(corpora: Sequence[Corpus]) -> list[dict[str, str]]:
    """Return for each corpus the new names of the files whose names another file has."""
    owner: dict[str, str] = {}  # stem, from which cell ids are made -> sha256
    for entry in corpora[0].manifest["files"]:
        owner.setdefault(PurePath(entry["name"]).stem, entry["sha256"])
    renamed: list[dict[str, str]] = [{}]
    for corpus in corpora[1:]:
        changes = {}
        for entry in corpus.manifest["files"]:
            name = PurePath(entry["name"])
            stem, number = name.stem, 1
            while owner.get(stem, entry["sha256"]) != entry["sha256"]:
                number += 1
                stem = f"{name.stem}~{number}"
            owner[stem] = entry["sha256"]
            if stem != name.stem:
                changes[entry["name"]] = f"{stem}{name.suffix}"
        renamed.append(changes)
    return renamed


def _write_shards(
    folder: Path, inputs: Sequence[_Input], schema: pa.Schema
) -> tuple[list[str], dict[tuple[int, str], str]]:
    """Bring all shards into `folder`; return their names, and (input, old name) -> name."""
    work = [(number, path) for number, item in enumerate(inputs) for path in shard_paths(item.corpus)]
    moved: dict[tuple[int, str], str] = {}
    for place, (number, path) in enumerate(progress(work, desc="merge", unit="shard")):
        name = f"part-{place:05d}.arrow"
        table, renamed = read_shard(path), inputs[number].renamed
        touched = bool(renamed) and bool(set(table.column("source").unique().to_pylist()) & set(renamed))
        if table.schema.remove_metadata().equals(schema) and not touched:
            link_or_copy(path, folder / name)
        else:
            write_shard(folder / name, schema, _rewritten(table, schema, renamed if touched else {}))
        moved[number, path.name] = name
    return list(moved.values()), moved


def _rewritten(table: pa.Table, schema: pa.Schema, renamed: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
    """Yield the record batches of a shard with the columns of `schema`, its files under their new names."""
    for batch in table.select(schema.names).to_batches():
        arrays = dict(zip(schema.names, batch.columns, strict=True))
        if renamed:
            arrays["source"], arrays["cell_id"] = _rename(arrays["source"], arrays["cell_id"], renamed)
        yield pa.record_batch([arrays[name] for name in schema.names], schema=schema)


def _rename(source: pa.Array, cell_id: pa.Array, renamed: Mapping[str, str]) -> tuple[pa.Array, pa.Array]:
    encoded = source.dictionary_encode()
    names = encoded.dictionary.to_pylist()
    new = pa.array([renamed.get(name, name) for name in names], type=source.type)
    stems = pa.array([PurePath(renamed.get(name, name)).stem for name in names], type=cell_id.type)
    rows = pc.replace_substring_regex(cell_id, pattern="^.*:", replacement="")
    ids = pc.binary_join_element_wise(stems.take(encoded.indices), rows, ":")
    return new.take(encoded.indices), ids


def _entries(inputs: Sequence[_Input], moved: Mapping[tuple[int, str], str]) -> list[dict[str, Any]]:
    """Return one manifest entry a file, under the new names of files and shards."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for number, item in enumerate(inputs):
        for entry in item.corpus.manifest["files"]:
            name = item.renamed.get(entry["name"], entry["name"])
            one = join_entries([entry])
            one |= {"name": name, "shards": [moved[number, shard] for shard in one["shards"]]}
            by_name.setdefault(name, []).append(one)
    return [join_entries(entries) for entries in by_name.values()]


def _facts(inputs: Sequence[_Input]) -> dict[str, Any]:
    manifests = [item.corpus.manifest for item in inputs]
    first = manifests[0]["settings"]
    alike = {
        key: value for key, value in first.items() if all(m["settings"].get(key) == value for m in manifests)
    }
    return {
        "settings": alike,
        "seed": manifests[0]["seed"],
        "merged": [
            {
                "corpus": item.corpus.path.resolve().name,
                "fingerprint": corpus_fingerprint(item.corpus),
                "n_cells": len(item.corpus),
                "settings": item.corpus.manifest["settings"],
                "seed": item.corpus.manifest["seed"],
            }
            for item in inputs
        ],
    }
