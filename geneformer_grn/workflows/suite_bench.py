"""What every question of the evaluation suite is given: the model, its untrained twin, and the files."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geneformer_grn._runtime import logger, sha256_file
from geneformer_grn.cells.counts import CellCounts, ReadSettings, read_counts
from geneformer_grn.cells.ranking import rank_cells

if TYPE_CHECKING:
    from geneformer_grn.cells.ranking import RankedCells
    from geneformer_grn.evaluation.masked_genes import Contestants
    from geneformer_grn.model.encoder import Encoder

SHARED = "GENEFORMER_GRN_SHARED"


@dataclass(frozen=True, kw_only=True)
class SuiteFile:
    """A file that a question is asked of.

    Parameters
    ----------
    path
        Below the folder of the suite's data.
    sha256, source, license
        Of the file that the questions were made for.
    """

    path: str
    sha256: str
    source: str
    license: str

    @property
    def name(self) -> str:
        """The file's name."""
        return Path(self.path).name


@dataclass(frozen=True, eq=False, kw_only=True)
class Bench:
    """The model and what it is held against.

    Parameters
    ----------
    contestants
        The model, its untrained copy, and the rank-position baseline of the checkpoint where it has one.
    folder
        The suite's data; None where there are none.
    listed
        Key -> file of the suite.
    known
        sha256 -> what for, of files that the model was made from.
    training
        The checkpoint's record of its training, or None.
    seed, token_budget
        Of everything random; tokens of a packed batch.
    """

    contestants: Contestants
    folder: Path | None
    listed: Mapping[str, SuiteFile]
    known: Mapping[str, str] = field(default_factory=dict)
    training: Mapping[str, Any] | None = None
    seed: int = 0
    token_budget: int = 16_384

    @property
    def encoder(self) -> Encoder:
        """The model."""
        return self.contestants.model

    @property
    def twin(self) -> Encoder:
        """The same architecture with random weights."""
        return replace(self.encoder, model=self.contestants.untrained, name="untrained")

    def path(self, key: str) -> Path:
        """Return where a file is, or should be."""
        return (self.folder or Path()) / self.listed[key].path

    def lacks(self, key: str) -> str:
        """Return why a file cannot be scored; empty where it can."""
        return self.misses(key) or self.seen(key)

    def misses(self, key: str) -> str:
        """Return why a file cannot be read; empty where it is there."""
        file = self.listed[key]
        if self.folder is None:
            return f"no folder of data was found for {file.path} (give one by --data)"
        if not self.path(key).is_file():
            return f"{file.path} is not in the folder of data"
        return ""

    def seen(self, key: str) -> str:
        """Return what for the model was given this very file; empty where it was not."""
        digest = sha256_file(self.path(key))
        name = self.listed[key].name
        return f"{name} {self.known[digest]} (same sha256)" if digest in self.known else ""

    def facts(self, key: str) -> dict[str, Any]:
        """Return name, hash, source and licence of a file, and whether it is the listed one."""
        file, digest = self.listed[key], sha256_file(self.path(key))
        if digest != file.sha256:
            logger.warning("%s is not the file that the suite was made for (another sha256)", file.name)
        return {
            "file": file.name, "sha256": digest, "as_listed": digest == file.sha256,
            "source": file.source, "license": file.license,
        }  # fmt: skip

    def counts(self, key: str, *, n_cells: int | None = None) -> CellCounts:
        """Return the counts of a file, of a random sample of its cells if asked."""
        return read_counts(
            self.path(key), self.encoder.vocabulary, ReadSettings(drop_empty=True), n_cells=n_cells,
            seed=self.seed,
        )  # fmt: skip

    def embeddings(self, counts: CellCounts) -> dict[str, np.ndarray]:
        """Return ``(n, d)`` cells by the model and its twin: means over genes, last layer but one."""
        from geneformer_grn.embedding import EmbedSettings, embed_cells
        from geneformer_grn.workflows.suite_rows import MODEL, UNTRAINED

        ranked, how = self.ranked(counts), EmbedSettings(token_budget=self.token_budget)
        return {
            name: embed_cells(encoder, ranked, how)
            for name, encoder in ((MODEL, self.encoder), (UNTRAINED, self.twin))
        }

    def ranked(self, counts: CellCounts) -> RankedCells:
        """Return the cells as the model's ranks."""
        return rank_cells(counts, self.encoder.vocabulary)

    def overlap(self, key: str) -> str:
        """Return what the record of the training says of a file, as a note; empty where it is not named."""
        stem = Path(self.listed[key].path).stem.lower()
        named = sorted({text for text in _texts(self.training) if stem in text.lower()})
        return f"the record of the training names it: {'; '.join(named)[:200]}" if named else ""


def joined_counts(bench: Bench, keys: Sequence[str], *, name: str, where: str | None = None) -> CellCounts:
    """Return the cells of several files, over the genes of any.

    Parameters
    ----------
    bench
        The model and the files.
    keys
        Of the files.
    name
        What the cells are called.
    where
        Of their obs columns: which of them; None: all.
    """
    import anndata

    from geneformer_grn.cells.opening import read_h5ad

    parts = []
    for key in keys:
        part = read_h5ad(bench.path(key))
        parts.append(anndata.AnnData(part.X, obs=part.obs, var=part.var[[]]))
    joined = anndata.concat(parts, join="outer", fill_value=0, index_unique="-")
    return read_counts(
        joined, bench.encoder.vocabulary, ReadSettings(where=where, drop_empty=True), name=name
    )


def rows_of(counts: CellCounts, rows: np.ndarray) -> CellCounts:
    """Return some cells of the counts."""
    return replace(
        counts, matrix=counts.matrix[rows], n_counts=counts.n_counts[rows], obs=counts.obs.iloc[rows],
        kept=counts.kept[rows],
    )  # fmt: skip


def column(counts: CellCounts, name: str) -> np.ndarray:
    """Return ``(n,)`` str of an obs column.

    Raises
    ------
    ValueError
        There is no such column.
    """
    if name not in counts.obs:
        raise ValueError(f"{counts.name} has no obs column {name!r}; the suite needs it")
    return counts.obs[name].astype(str).to_numpy(dtype=str)


def labelled(counts: CellCounts, name: str = "cell_type", *, least: int = 10) -> np.ndarray:
    """Return the rows of cells whose label is known and not rare."""
    labels = column(counts, name)
    found, place, size = np.unique(labels, return_inverse=True, return_counts=True)
    usable = (size >= least) & ~np.isin(np.char.lower(found), ("unknown", "unlabelled", "nan", ""))
    return np.flatnonzero(usable[place])


def suite_files(suite: str = "standard") -> dict[str, SuiteFile]:
    """Return key -> file of a suite."""
    text = (files("geneformer_grn.workflows") / "suites" / f"{suite}.toml").read_text(encoding="utf-8")
    return {key: SuiteFile(**entry) for key, entry in tomllib.loads(text)["files"].items()}


def data_folder(given: Path | str | None) -> Path | None:
    """Return the folder of the suite's data: the given one, else the shared one, else None.

    Parameters
    ----------
    given
        A folder; None: ``$GENEFORMER_GRN_SHARED/data``, else ``../shared/data``, where there is one.

    Raises
    ------
    FileNotFoundError
        The given folder is none.
    """
    if given is not None:
        if not Path(given).is_dir():
            raise FileNotFoundError(f"no folder of data at {given}")
        return Path(given)
    shared = Path(os.environ.get(SHARED, Path("..") / "shared")) / "data"
    return shared if shared.is_dir() else None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)
