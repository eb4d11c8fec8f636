"""The work folder of a vocabulary build: what each file gave in each pass, so that none is read twice.

``plan.json`` says which files and settings it belongs to. ``pass-N/search.npz`` is what pass N asks,
``pass-N/00007.npz`` what its eighth file answered. All are written whole or not at all, and every answer
depends on its file and the question only: a build may be killed at any moment, and machines that share the
folder need not know of each other. The present pass is the last with a question.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geneformer_grn._runtime import atomic_path, n_cores, plain_json, progress, write_json
from geneformer_grn.cells.medians import Search, Tally, new_search
from geneformer_grn.cells.opening import find_files, open_source
from geneformer_grn.cells.reading import lost_share, open_counts, refuse_empty
from geneformer_grn.cells.stamps import sha256_of, stamp_of
from geneformer_grn.genes.mapping import WholeTable
from geneformer_grn.genes.table import load_gene_table

if TYPE_CHECKING:
    from geneformer_grn.cells.vocabulary_build import VocabularySettings

_MOST_COLUMNS = 1 << 16  # known genes that are looked at together


@dataclass(frozen=True)
class StoredAnswer:
    """The arrays of a file's answer; none stays in memory."""

    path: Path

    def __getitem__(self, name: str, /) -> np.ndarray:
        with np.load(self.path, allow_pickle=False) as arrays:
            array: np.ndarray = arrays[name]
        return array


@dataclass
class VocabularyWork:
    """The folder, opened; the present pass has the number `number`, from 1.

    Parameters
    ----------
    folder
        The work folder.
    files
        The count files.
    stamps
        Size and time of the last change of each when the work was planned.
    settings
        How the vocabulary is built.
    number
        The present pass.
    """

    folder: Path
    files: list[Path]
    stamps: list[list[int]]
    settings: VocabularySettings
    number: int

    @classmethod
    def open(
        cls, folder: Path, files: Sequence[Path | str], settings: VocabularySettings, *, most_values: int
    ) -> VocabularyWork:
        """Open a work folder, or start one.

        Raises
        ------
        FileNotFoundError
            A count file is missing.
        ValueError
            No files are given, the folder belongs to other files or settings, or a file changed since.
        """
        if not files:
            raise ValueError("a vocabulary is built from cells; name at least one count file")
        paths = [path for file in files for path in find_files([file])]
        facts = {
            "files": [path.name for path in paths], "stamps": [stamp_of(path) for path in paths],
            "settings": asdict(settings), "most_values": most_values,
        }  # fmt: skip
        plan = plain_json(facts)
        state = cls(folder=folder, files=paths, stamps=plan["stamps"], settings=settings, number=1)
        if (folder / "plan.json").is_file():
            known = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
            other = [key for key in plan if key != "stamps" and known.get(key) != plan[key]]
            if other:
                raise ValueError(
                    f"{folder.name} holds an unfinished build with other {' and '.join(other)}; give the "
                    "same files and options to go on with it, or delete that folder to start again"
                )
            state.stamps = known["stamps"]
            for number in range(len(paths)):
                state._refuse_changed(number)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            state._write_search(new_search(len(load_gene_table()), collect=state._are_few(most_values)))
            write_json(folder / "plan.json", plan)  # last: with it, the first question is there
        while (folder / f"pass-{state.number + 1}" / "search.npz").is_file():
            state.number += 1
        return state

    def search(self) -> Search:
        """Return what the present pass asks."""
        with np.load(self._pass() / "search.npz", allow_pickle=False) as arrays:
            return Search.from_arrays(arrays)

    def n_done(self) -> int:
        """Return how many files have answered the present pass."""
        return sum(self._answer(number).is_file() for number in range(len(self.files)))

    def is_complete(self) -> bool:
        """Return whether all files have."""
        return self.n_done() == len(self.files)

    def run(self, search: Search, numbers: Iterable[int]) -> None:
        """Put the question of the present pass to some files, those left out that have answered already.

        Raises
        ------
        ValueError
            A file cannot be read as raw counts of known genes, or changed since its work was planned.
        """
        todo = [number for number in numbers if not self._answer(number).is_file()]
        for number in progress(todo, desc=f"vocabulary, pass {self.number}", unit="file"):
            tally = Tally(search, self.settings.target_sum)
            report = _tally_file(self.files[number], self.settings, tally)
            if self.number == 1:
                report = {"name": self.files[number].name, "sha256": sha256_of(self.files[number]), **report}
            self._refuse_changed(number)  # after reading: what was read is one state of the file
            if self.number == 1:
                write_json(self._answer(number).with_suffix(".json"), report)
            with atomic_path(self._answer(number)) as path:
                np.savez(path, **tally.arrays())  # type: ignore[arg-type]

    def answers(self) -> list[StoredAnswer]:
        """Return what the files answered to the present pass; it is read when asked for."""
        return [StoredAnswer(self._answer(number)) for number in range(len(self.files))]

    def advance(self, search: Search) -> None:
        """Make `search` what the next pass asks, and that the present one."""
        self.number += 1
        self._write_search(search)

    def sources(self) -> list[dict[str, Any]]:
        """Return what the first pass learned of each file."""
        first = self.folder / "pass-1"
        paths = [first / f"{number:05d}.json" for number in range(len(self.files))]
        return [json.loads(path.read_text(encoding="utf-8")) for path in paths]

    def refuse_repeats(self) -> None:
        """Raise the ValueError about a file that is given twice, under whatever name."""
        name_of: dict[str, str] = {}
        for source in self.sources():
            if source["sha256"] in name_of:
                raise ValueError(
                    f"{source['name']} has the same content as {name_of[source['sha256']]}; its cells would "
                    "count twice"
                )
            name_of[source["sha256"]] = source["name"]

    def keep_n_seen(self, n_genes: int) -> None:
        """Write down how many genes were seen in any cell."""
        write_json(self.folder / "seen.json", n_genes)

    def n_seen(self) -> int:
        """Return how many genes were seen in any cell."""
        return int((self.folder / "seen.json").read_text(encoding="utf-8"))

    def _refuse_changed(self, number: int) -> None:
        path = self.files[number]
        if stamp_of(path) != self.stamps[number]:
            raise ValueError(
                f"{path.name} changed since its work was planned; delete {self.folder.name} to start again"
            )

    def _pass(self) -> Path:
        return self.folder / f"pass-{self.number}"

    def _answer(self, number: int) -> Path:
        return self._pass() / f"{number:05d}.npz"

    def _write_search(self, search: Search) -> None:
        with atomic_path(self._pass() / "search.npz") as path:
            np.savez(path, **search.arrays())  # type: ignore[arg-type]

    def _are_few(self, most_values: int) -> bool:
        """Return whether all files together store no more values than may be collected at once."""
        n_values = 0
        for path in self.files:
            with open_source(path, layer=self.settings.read.layer) as source:
                n_values += source.shape[0] * source.shape[1] if source.nnz is None else source.nnz
            if n_values > most_values:
                return False
        return True


def _tally_file(path: Path, settings: VocabularySettings, tally: Tally) -> dict[str, Any]:
    """Read a file's counts of all genes of the table into `tally`; return what its provenance says."""
    table = WholeTable(settings.setting)
    n_cells = n_empty = 0
    total = known = 0.0
    with open_counts(path, table, replace(settings.read, drop_empty=True)) as opened:
        mapping = opened.mapping
        genes = np.unique(mapping.tokens[mapping.tokens >= 0])
        parts = np.array_split(genes, -(-len(genes) // _MOST_COLUMNS))
        columns = [np.where(np.isin(mapping.tokens, part), mapping.tokens, -1) for part in parts]
        for rows, block in opened.blocks():
            pieces = [_known(block, some, undo_log=opened.scale == "log") for some in columns]
            totals, values = pieces[0][2:]
            opened.check(values)
            filled = np.sum([np.diff(matrix.indptr) for matrix, *_ in pieces], axis=0) > 0
            n_counts = np.ones(len(rows))  # an empty cell has no value to scale
            n_counts[filled] = opened.n_counts(rows[filled], totals[filled])
            for matrix, places, *_ in pieces:
                tally.add(matrix, n_counts, places)
                known += float(matrix.data.sum(dtype=np.float64))
            total += float(totals.sum())
            n_cells, n_empty = n_cells + len(rows), n_empty + int((~filled).sum())
    report = opened.report()
    if n_empty == n_cells:
        refuse_empty(opened.name, report, n_cells=n_cells, n_empty=n_empty)
    lost_share(opened.name, report, total=total, known=known)
    return {
        **opened.source.stated,
        "n_cells": n_cells - n_empty,
        "n_genes": len(genes),
        "naming": mapping.naming,
    }


def _known(block: Any, columns: np.ndarray, *, undo_log: bool) -> tuple[Any, ...]:
    from geneformer_grn.cells.known_counts import known_counts

    return known_counts(block, columns, threads=n_cores(), undo_log=undo_log)
