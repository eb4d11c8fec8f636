"""Corpora: tokenised cells on disk as an Arrow folder, in the form that Hugging Face `datasets` reads.

Reading needs pyarrow only and copies nothing: the tokens stay in the memory-mapped files.
``datasets.load_from_disk`` and ``datasets.load_dataset("arrow", data_files="CORPUS/*.arrow")`` open the same
folder. Beside the shards lie the vocabulary, without which tokens mean nothing, and
``manifest.json``, which says what went in and what was left out.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from geneformer_grn.cells.corpora.shards import CORPUS_KIND, MANIFEST
from geneformer_grn.genes.vocabulary import GeneVocabulary


@dataclass(frozen=True, eq=False)
class Corpus:
    """Tokenised cells, memory-mapped.

    Open one with :meth:`Corpus.open`.

    Parameters
    ----------
    path
        Its folder.
    manifest
        What went in: vocabulary fingerprint, files with hashes, settings, cells kept and dropped and why.
    offsets
        ``(n+1,)`` int64; cell `i` has ``offsets[i + 1] - offsets[i]`` tokens.
    table
        All columns.
    values
        The tokens as they lie in the files, ``(tokens,)`` uint16 for each record batch.
    """

    path: Path
    manifest: dict[str, Any]
    offsets: np.ndarray
    table: pa.Table
    values: list[np.ndarray]

    @classmethod
    def open(cls, path: Path | str) -> Corpus:
        """Open a corpus folder.

        Raises
        ------
        FileNotFoundError
            There is no such folder, or it holds no corpus.
        ValueError
            A file of it is damaged or missing.

        Examples
        --------
        >>> corpus = Corpus.open("corpus")  # doctest: +SKIP
        >>> corpus.cell(0)[:3]  # doctest: +SKIP
        array([   2,  713, 9041], dtype=uint16)
        """
        path = Path(path)
        manifest = _read_manifest(path)
        if manifest is None:
            raise FileNotFoundError(
                f"{path} is not a corpus (no {MANIFEST} of one); make one with geneformer-grn tokenize FILE "
                f"--out {path}"
            )
        try:
            state = json.loads((path / "state.json").read_text(encoding="utf-8"))
            shards = [path / item["filename"] for item in state["_data_files"]]
            maps = [pa.memory_map(str(shard)) for shard in shards]
            table = pa.concat_tables(pa.ipc.open_stream(source).read_all() for source in maps)
        except (OSError, ValueError, KeyError) as error:  # pyarrow.ArrowInvalid is a ValueError
            raise ValueError(f"corpus {path} is damaged ({error}); tokenize the cells again") from error
        if table.num_rows != manifest["n_cells"]:
            raise ValueError(
                f"corpus {path} is damaged: its files hold {table.num_rows:,} cells, its manifest says "
                f"{manifest['n_cells']:,}; tokenize the cells again"
            )
        chunks = [chunk for chunk in table.column("input_ids").chunks if len(chunk)]
        lengths = [np.diff(chunk.offsets.to_numpy()) for chunk in chunks]
        return cls(
            path=path,
            manifest=manifest,
            offsets=np.concatenate([[0], np.cumsum(np.concatenate(lengths), dtype=np.int64)]),
            table=table,
            values=[chunk.flatten().to_numpy(zero_copy_only=True) for chunk in chunks],
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        """``(n,)`` int64 tokens of each cell, special tokens included."""
        return np.diff(self.offsets)

    @cached_property
    def input_ids(self) -> np.ndarray:
        """``(tokens,)`` uint16, all cells end to end; a copy where there are several record batches."""
        return self.values[0] if len(self.values) == 1 else np.concatenate(self.values)

    @cached_property
    def _value_starts(self) -> list[int]:
        return np.cumsum([0, *(len(values) for values in self.values)]).tolist()

    def cell(self, index: int) -> np.ndarray:
        """Return the ``(l,)`` uint16 model input of one cell, a view of the file.

        Raises
        ------
        IndexError
            There is no such cell.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"cell {index} of a corpus of {len(self):,} cells")
        start, stop = int(self.offsets[index]), int(self.offsets[index + 1])
        part = bisect_right(self._value_starts, start) - 1
        before = self._value_starts[part]
        return self.values[part][start - before : stop - before]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns."""
        return tuple(self.table.column_names)

    def column(self, name: str) -> np.ndarray:
        """Return a column other than the tokens, ``(n,)``; text as objects, None where missing.

        Raises
        ------
        ValueError
            There is no such column.
        """
        if name not in self.columns or name == "input_ids":
            there = ", ".join(column for column in self.columns if column != "input_ids")
            raise ValueError(f"corpus {self.path.name} has no column {name!r}; columns there: {there}")
        return self.table.column(name).to_numpy()

    @cached_property
    def vocabulary(self) -> GeneVocabulary:
        """The vocabulary whose tokens these are, as it lies in the folder."""
        return GeneVocabulary.load(self.path)

    def require_vocabulary(self, vocabulary: GeneVocabulary) -> None:
        """Raise unless the cells were tokenised with `vocabulary`.

        Raises
        ------
        VocabularyMismatchError
            They were not.
        """
        vocabulary.require_same(
            self.manifest["vocabulary"]["fingerprint"], this="the model", other=f"corpus {self.path.name}"
        )


def require_corpus_place(out: Path) -> None:
    """Refuse to write a corpus over something else.

    Raises
    ------
    FileExistsError
        `out` is there, and is neither a corpus nor an empty folder.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and _read_manifest(out) is None)):
        raise FileExistsError(f"{out} exists and is not a corpus; it is left as it is. Choose another --out")


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a corpus folder, or None where it is not one."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and manifest.get("kind") == CORPUS_KIND else None
