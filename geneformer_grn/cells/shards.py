"""One file of cells to one shard of a corpus: read, rank, crop, and write as an Arrow stream.

The unit of work of tokenising, and of its processes. Record batches stay small, so that readers touch little
and the 32-bit offsets of an Arrow list never overflow, however large the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from geneformer_grn._runtime import library_versions, raised_on_purpose, sha256_file, write_json
from geneformer_grn.cells.counts import ReadSettings, read_counts
from geneformer_grn.cells.ranking import RankedCells, rank_cells
from geneformer_grn.genes.vocabulary import GeneVocabulary

OWN_COLUMNS = ("input_ids", "length", "cell_id", "source")
MANIFEST = "manifest.json"
CORPUS_KIND = "geneformer-grn corpus"
_BATCH_VALUES = 1 << 20
_TOTALS = (
    "n_cells_file", "n_cells", "n_dropped_filter", "n_dropped_empty", "n_dropped_min_genes", "n_not_sampled",
    "n_cropped_cells", "n_cropped_genes", "n_tokens", "counts_total", "counts_known",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CorpusSettings:
    """How files become a corpus.

    Parameters
    ----------
    read
        How each file is read.
    columns
        obs columns to carry along, as text; every file must have them.
    min_genes
        Cells with fewer known genes are left out.
    n_cells
        Take a random sample of at most this many cells of each file; None: all.
    seed
        Seed of that sample.
    workers
        Files tokenised at a time, each in a process of its own.
    """

    read: ReadSettings = field(default_factory=ReadSettings)
    columns: tuple[str, ...] = ()
    min_genes: int = 1
    n_cells: int | None = None
    seed: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        if reserved := [name for name in self.columns if name in OWN_COLUMNS]:
            raise ValueError(
                f"column {reserved[0]!r} is one of the corpus's own; rename it in obs to carry it along"
            )
        if self.workers < 1 or self.min_genes < 1:
            raise ValueError(f"workers ({self.workers}) and min_genes ({self.min_genes}) must be at least 1")

    def as_dict(self) -> dict[str, Any]:
        """Return the settings that shape the result, for the manifest."""
        facts = asdict(self)
        del facts["workers"]
        return facts


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """One file to tokenise: where it is, what it is called in the corpus, and where its shard goes."""

    source: Path
    name: str
    shard: Path
    vocabulary: GeneVocabulary
    settings: CorpusSettings


@dataclass(frozen=True)
class Refusal:
    """An error about the input, found in another process, where tracebacks do not travel."""

    kind: type[Exception]
    message: str


def tokenize_file(task: ShardTask) -> dict[str, Any]:
    """Write the shard of one file and return its entry for the manifest.

    Raises
    ------
    FileNotFoundError, ValueError
        The file cannot be read as raw counts, or lacks a column; see :func:`read_counts`.
    """
    settings = task.settings
    counts = read_counts(
        task.source, task.vocabulary, settings.read, n_cells=settings.n_cells, seed=settings.seed
    )
    if missing := [name for name in settings.columns if name not in counts.obs]:
        raise ValueError(
            f"{task.name}: obs has no column {missing[0]!r}; columns there: "
            f"{', '.join(map(str, counts.obs.columns)) or 'none'}"
        )
    ranked = rank_cells(counts, task.vocabulary)
    chosen = np.flatnonzero(ranked.lengths >= settings.min_genes)
    table: dict[str, list[str | None]] = {
        "cell_id": [f"{Path(task.name).stem}:{row}" for row in counts.kept[chosen].tolist()],
        "source": [task.name for _ in chosen],
        **{name: _texts(counts.obs[name].iloc[chosen]) for name in settings.columns},
    }
    room = task.vocabulary.max_length - task.vocabulary.n_wrapping
    cropped = np.maximum(ranked.lengths[chosen] - room, 0)
    n_tokens = _write_stream(task.shard, ranked, chosen, table=table, vocabulary=task.vocabulary)
    return {
        "name": task.name,
        "sha256": sha256_file(task.source),
        **counts.report,
        "n_cells": len(chosen),
        "n_dropped_min_genes": len(ranked) - len(chosen),
        "n_cropped_cells": int((cropped > 0).sum()),
        "n_cropped_genes": int(cropped.sum()),
        "n_tokens": n_tokens,
    }


def tokenize_file_elsewhere(task: ShardTask) -> dict[str, Any] | Refusal:
    """Do :func:`tokenize_file` in another process, bringing errors about the input home as values.

    Only what this package raised on purpose is a refusal; anything else is raised as the fault that it is.
    """
    try:
        return tokenize_file(task)
    except (ValueError, TypeError, OSError) as error:
        if not raised_on_purpose(error):
            raise
        return Refusal(kind=type(error), message=str(error))


def finish_folder(
    folder: Path,
    tasks: list[ShardTask],
    entries: list[dict[str, Any]],
    *,
    vocabulary: GeneVocabulary,
    settings: CorpusSettings,
) -> None:
    """Name the shards as `datasets` does, and write what lies beside them."""
    filled = [(task, entry) for task, entry in zip(tasks, entries, strict=True) if entry["n_cells"]]
    if not filled:
        raise ValueError(f"no cell is left: all have fewer than {settings.min_genes} known genes")
    for task, entry in zip(tasks, entries, strict=True):
        if not entry["n_cells"]:
            task.shard.unlink()
            entry["shard"] = None
    for number, (task, entry) in enumerate(filled):
        entry["shard"] = f"data-{number:05d}-of-{len(filled):05d}.arrow"
        task.shard.rename(folder / entry["shard"])
    vocabulary.save(folder)
    manifest = {
        "kind": CORPUS_KIND,
        "format": 1,
        "versions": library_versions(),
        "vocabulary": {
            "fingerprint": vocabulary.fingerprint, "setting": vocabulary.setting,
            "n_genes": len(vocabulary) - vocabulary.n_special, "max_length": vocabulary.max_length,
        },
        "settings": settings.as_dict(),
        "seed": settings.seed,
        **{name: sum(entry[name] for entry in entries) for name in _TOTALS},
        "files": entries,
    }  # fmt: skip
    write_json(folder / MANIFEST, manifest)
    information = {"description": CORPUS_KIND, "citation": "", "homepage": "", "license": ""}
    write_json(folder / "dataset_info.json", information)
    state: dict[str, Any] = {
        "_data_files": [{"filename": entry["shard"]} for _, entry in filled],
        "_fingerprint": vocabulary.fingerprint[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    write_json(folder / "state.json", state)


def _texts(values: pd.Series) -> list[str | None]:
    """Return a column as text: the one type that files agree on."""
    return [None if missing else str(value) for value, missing in zip(values, values.isna(), strict=True)]


def _write_stream(
    path: Path,
    ranked: RankedCells,
    cells: np.ndarray,
    *,
    table: dict[str, list[str | None]],
    vocabulary: GeneVocabulary,
) -> int:
    """Write the chosen cells as record batches of about a million tokens; return the number of tokens."""
    schema = pa.schema(
        [("input_ids", pa.list_(pa.uint16())), ("length", pa.int32())]
        + [(name, pa.string()) for name in table]
    )
    n_tokens = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for start, stop in _blocks(ranked, cells):
            values, lengths = _model_inputs(ranked, cells[start:stop], vocabulary)
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
            arrays = [
                pa.ListArray.from_arrays(pa.array(offsets), pa.array(values)),
                pa.array(lengths.astype(np.int32)),
                *(pa.array(column[start:stop], type=pa.string()) for column in table.values()),
            ]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
            n_tokens += len(values)
    return n_tokens


def _blocks(ranked: RankedCells, cells: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of consecutive cells with about a million genes together, at least one cell."""
    ends = np.cumsum(ranked.lengths[cells])
    start, before = 0, 0
    while start < len(cells):
        stop = max(start + 1, int(np.searchsorted(ends, before + _BATCH_VALUES, side="right")))
        yield start, stop
        start, before = stop, int(ends[stop - 1])


def _model_inputs(
    ranked: RankedCells, cells: np.ndarray, vocabulary: GeneVocabulary
) -> tuple[np.ndarray, np.ndarray]:
    """Return what `model_input` gives for each cell, end to end: values uint16, lengths int64."""
    lead = vocabulary.n_wrapping // 2
    genes = np.minimum(ranked.lengths[cells], vocabulary.max_length - vocabulary.n_wrapping)
    lengths = genes + vocabulary.n_wrapping
    ends = np.cumsum(lengths)
    starts = ends - lengths
    values = np.empty(int(ends[-1]), dtype=np.uint16)
    is_gene = np.ones(len(values), dtype=bool)
    if lead:
        values[starts], values[ends - 1] = vocabulary.token_of["<cls>"], vocabulary.token_of["<eos>"]
        is_gene[starts] = is_gene[ends - 1] = False
    gene_ends = np.cumsum(genes)
    source = np.arange(int(gene_ends[-1])) + np.repeat(ranked.offsets[cells] - (gene_ends - genes), genes)
    values[is_gene] = ranked.tokens[source]
    return values, lengths
