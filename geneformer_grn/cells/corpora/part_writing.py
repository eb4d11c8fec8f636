"""One pass over rows of a file that writes its parts as Arrow streams: rank, filter, count, write.

Record batches are cut by their tokens alone and stay small: readers touch little, the 32-bit offsets of an
Arrow list never overflow, and the bytes do not depend on the blocks in which the rows came.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy import sparse

from geneformer_grn._runtime import ahead, atomic_path, write_json
from geneformer_grn.cells.corpora.shards import CorpusSettings, Part
from geneformer_grn.cells.ranker import RankedBlock, Ranker
from geneformer_grn.cells.reading import OpenedCounts, lost_share, refuse_empty
from geneformer_grn.genes.vocabulary import GeneVocabulary

_BATCH_VALUES = 1 << 20
_LARGEST_COUNT = np.iinfo(np.uint32).max


def write_parts(
    opened: OpenedCounts,
    vocabulary: GeneVocabulary,
    parts: Sequence[Part],
    *,
    folder: Path,
    settings: CorpusSettings,
    threads: int = 1,
) -> Iterator[dict[str, Any]]:
    """Write consecutive parts of a file in one pass over it, and yield what each holds when it is done.

    Parameters
    ----------
    opened
        The file.
    vocabulary
        The vocabulary it was opened with.
    parts
        Ascending parts that follow one another.
    folder
        Where shards and entries go, each under its final name only when complete.
    settings
        How files become a corpus.
    threads
        CPU threads that rank cells.

    Raises
    ------
    ValueError
        The values are no counts, cells are empty, or a column is missing.
    """
    columns = _Columns(opened, settings)
    longest = vocabulary.max_length - vocabulary.n_wrapping
    ranker = Ranker(
        opened.mapping.tokens, vocabulary.medians, threads=threads, longest=longest,
        wrap=vocabulary.wrapping, with_counts=settings.keep_counts,
        undo_log=opened.scale == "log",
    )  # fmt: skip
    schema = _schema(settings)
    blocks = opened.blocks(parts[0].start, parts[-1].stop)
    cut = _cut(ahead(blocks) if threads > 1 else blocks, [part.stop for part in parts])
    for part, mine in zip(parts, cut, strict=True):
        with atomic_path(folder / part.shard) as temporary:
            tally = _Tally(longest)
            with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
                cells = _PartWriter(writer, schema)
                for rows, block in mine:
                    ranked = ranker.rank(block)
                    opened.check(ranked.values)
                    kept = tally.add(opened, ranked, rows, settings)
                    cells.add(_arrays(ranked, kept, settings), columns.of(rows[kept]))
                cells.close()
            tally.cells["n_tokens"] = cells.n_tokens
            if part.start == 0 and part.stop == opened.source.shape[0]:
                # Before anything of a file that is refused is kept.
                check_file(opened.name, opened.report(), tally.cells, settings)
            elif not settings.read.drop_empty:
                n_empty = tally.cells["n_dropped_empty"]
                refuse_empty(opened.name, opened.report(), n_cells=len(opened.chosen.rows), n_empty=n_empty)
        write_json(folder / part.entry, tally.cells)
        yield tally.cells


def check_file(name: str, report: dict[str, Any], entry: dict[str, Any], settings: CorpusSettings) -> float:
    """Refuse a file for what only the whole of it tells; return the share of counts that is lost.

    Parameters
    ----------
    name
        What messages call the file.
    report
        Its header's facts.
    entry
        What all its parts hold.
    settings
        How files become a corpus.

    Raises
    ------
    ValueError
        Cells are empty, or more than 80 % of the counts are in unknown genes.
    """
    lost = lost_share(name, report, total=entry["counts_total"], known=entry["counts_known"])
    n_cells, n_empty = entry["n_read"], entry["n_dropped_empty"]
    if n_empty == n_cells or not settings.read.drop_empty:
        refuse_empty(name, report, n_cells=n_cells, n_empty=n_empty)
    return lost


class _Tally:
    """What becomes of the cells of a part: read, dropped and why, cropped."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self.cells: dict[str, Any] = dict.fromkeys(
            (
                "n_read", "n_cells", "n_dropped_empty", "n_dropped_min_genes", "n_dropped_min_counts",
                "n_cropped_cells", "n_cropped_genes", "n_tokens",
            ), 0,
        )  # fmt: skip
        self.cells |= {"counts_total": 0.0, "counts_known": 0.0}

    def add(
        self, opened: OpenedCounts, ranked: RankedBlock, rows: np.ndarray, settings: CorpusSettings
    ) -> np.ndarray:
        """Count the cells of a block; return the numbers in it of those that are kept."""
        filled = ranked.lengths > 0
        enough = filled & (ranked.lengths >= settings.min_genes)
        kept = np.flatnonzero(enough)
        n_counts = opened.n_counts(rows[kept], ranked.totals[kept])
        deep = n_counts >= settings.min_counts
        cropped = (ranked.lengths - np.minimum(ranked.lengths, self._longest))[kept[deep]]
        for name, number in (
            ("n_read", len(rows)), ("n_cells", int(deep.sum())), ("n_dropped_empty", int((~filled).sum())),
            ("n_dropped_min_genes", int((filled & ~enough).sum())),
            ("n_dropped_min_counts", int((~deep).sum())), ("n_cropped_cells", int((cropped > 0).sum())),
            ("n_cropped_genes", int(cropped.sum())), ("counts_total", float(ranked.totals.sum())),
            ("counts_known", float(ranked.known.sum())),
        ):  # fmt: skip
            self.cells[name] += number
        return kept[deep]


class _Columns:
    """The text columns of a file's cells: where each is from, and what obs says of it."""

    def __init__(self, opened: OpenedCounts, settings: CorpusSettings) -> None:
        obs = opened.source.obs
        if missing := [name for name in settings.columns if name not in obs]:
            raise ValueError(
                f"{opened.name}: obs has no column {missing[0]!r}; columns there: "
                f"{', '.join(map(str, obs.columns)) or 'none'}"
            )
        self._name = opened.name
        self._stem = Path(opened.name).stem
        self._texts = {name: _texts(obs[name]) for name in settings.columns}

    def of(self, rows: np.ndarray) -> dict[str, pa.Array]:
        """Return the columns of some rows of the file."""
        return {
            "cell_id": pa.array([f"{self._stem}:{row}" for row in rows.tolist()], type=pa.string()),
            "source": pa.repeat(pa.scalar(self._name, type=pa.string()), len(rows)),
            **{name: texts.take(pa.array(rows)).cast(pa.string()) for name, texts in self._texts.items()},
        }


class _PartWriter:
    """Writes cells as record batches of about a million tokens, wherever the blocks they come in are cut."""

    def __init__(self, writer: pa.RecordBatchStreamWriter, schema: pa.Schema) -> None:
        self._writer, self._schema = writer, schema
        self._waiting: list[pa.RecordBatch] = []
        self._lengths: list[np.ndarray] = []
        self.n_tokens = 0

    def add(self, arrays: dict[str, pa.Array], columns: dict[str, pa.Array]) -> None:
        """Add cells; write the record batches that are complete."""
        batch = pa.record_batch({**arrays, **columns}, schema=self._schema)
        self._waiting.append(batch)
        self._lengths.append(batch.column("length").to_numpy().astype(np.int64))
        self._flush(everything=False)

    def close(self) -> None:
        """Write what waits."""
        self._flush(everything=True)

    def _flush(self, *, everything: bool) -> None:
        ends = np.cumsum(np.concatenate(self._lengths)) if self._lengths else np.empty(0, dtype=np.int64)
        if not everything and (len(ends) == 0 or ends[-1] <= _BATCH_VALUES):
            return
        cells = pa.Table.from_batches(self._waiting, schema=self._schema)
        start, before = 0, 0
        while start < len(ends):
            stop = max(start + 1, int(np.searchsorted(ends, before + _BATCH_VALUES, side="right")))
            if stop == len(ends) and not everything:
                break
            (batch,) = cells.slice(start, stop - start).combine_chunks().to_batches()
            self._writer.write_batch(batch)
            self.n_tokens += int(ends[stop - 1]) - before
            start, before = stop, int(ends[stop - 1])
        self._waiting = cells.slice(start).to_batches()
        self._lengths = [np.diff(ends[start:], prepend=before)]


def _schema(settings: CorpusSettings) -> pa.Schema:
    fields = [("input_ids", pa.list_(pa.uint16())), ("length", pa.int32())]
    if settings.keep_counts:
        fields.append(("counts", pa.list_(_count_type(settings))))
    return pa.schema(fields + [(name, pa.string()) for name in ("cell_id", "source", *settings.columns)])


def _count_type(settings: CorpusSettings) -> pa.DataType:
    """Return how counts are kept: whole, unless fractions are allowed."""
    return pa.float32() if settings.read.allow_normalised else pa.uint32()


def _arrays(ranked: RankedBlock, kept: np.ndarray, settings: CorpusSettings) -> dict[str, pa.Array]:
    """Return the columns that come out of the ranking, of the cells that are kept."""
    tokens, counts, offsets = ranked.tokens, ranked.counts, ranked.offsets
    if len(kept) < len(ranked):
        lengths = np.diff(offsets)[kept]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        places = np.arange(int(offsets[-1])) + np.repeat(ranked.offsets[kept] - offsets[:-1], lengths)
        tokens = tokens[places]
        counts = None if counts is None else counts[places]
    ends = pa.array(offsets.astype(np.int32))
    arrays = {
        "input_ids": pa.ListArray.from_arrays(ends, pa.array(tokens)),
        "length": pa.array(np.diff(offsets).astype(np.int32)),
    }
    if counts is not None:
        kind = _count_type(settings)
        if kind == pa.uint32() and len(counts) and float(counts.max()) > _LARGEST_COUNT:
            raise ValueError(
                f"a count of {counts.max():,.0f} is too large to keep (at most {_LARGEST_COUNT:,}); leave "
                "--keep-counts out"
            )
        arrays["counts"] = pa.ListArray.from_arrays(ends, pa.array(counts.astype(kind.to_pandas_dtype())))
    return arrays


def _cut(
    blocks: Iterable[tuple[np.ndarray, sparse.csr_matrix]], stops: Sequence[int]
) -> Iterator[Iterator[tuple[np.ndarray, sparse.csr_matrix]]]:
    """Yield the blocks up to each of the ascending row numbers in `stops`; use each before the next."""
    source = iter(blocks)
    held: tuple[np.ndarray, sparse.csr_matrix] | None = None

    def until(stop: int) -> Iterator[tuple[np.ndarray, sparse.csr_matrix]]:
        nonlocal held
        while (held := held or next(source, None)) is not None:
            rows, block = held
            n = int(np.searchsorted(rows, stop))
            held = None if n == len(rows) else (rows[n:], block[n:])
            if n:
                yield rows[:n], block[:n]
            if held is not None:
                return

    for stop in stops:
        yield until(stop)


def _texts(values: pd.Series) -> pa.Array:
    """Return a column as text, the one type that files agree on; missing values as null."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        codes = values.cat.codes.to_numpy()
        categories = pa.array([str(value) for value in values.cat.categories], type=pa.string())
        indices = pa.array(codes, mask=codes < 0)
        return pa.DictionaryArray.from_arrays(indices, categories)
    missing = values.isna()
    texts = [None if gone else str(value) for value, gone in zip(values, missing, strict=True)]
    return pa.array(texts, type=pa.string())
