"""The work of tokenising as a list of parts that any process on any machine can do, in any order, repeatedly.

``CORPUS.unfinished`` holds the plan, the vocabulary and the parts that are done. One process, a pool, a SLURM
array and Ray all call ``run_group`` of ``tokenizing.py``; a call that was killed is repeated and does what is
missing. The plan knows where the files lie; nothing else that is written does.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from geneformer_grn._runtime import atomic_path, library_versions, logger, write_json
from geneformer_grn.cells.corpora.folder import link_or_copy, write_dataset_files
from geneformer_grn.cells.corpora.part_writing import check_file
from geneformer_grn.cells.corpora.shards import CORPUS_KIND, MANIFEST, CorpusSettings, Part, parts_of
from geneformer_grn.cells.reading import OpenedCounts, Scale, open_counts, warn_lost
from geneformer_grn.cells.stamps import sha256_of, stamp_of
from geneformer_grn.genes.vocabulary import VOCABULARY_FILES, GeneVocabulary

PLAN = "plan.json"
_WORTH_KEEPING = 1_000_000  # rows: a minute of work
_TOTALS = (
    "n_cells_file", "n_cells", "n_dropped_filter", "n_dropped_where", "n_dropped_copies",
    "n_dropped_empty", "n_dropped_min_genes", "n_dropped_min_counts", "n_not_sampled", "n_cropped_cells",
    "n_cropped_genes", "n_tokens", "counts_total", "counts_known",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PlannedFile:
    """One file of a plan: where it is, its name in the corpus, its state then, and what opening it told.

    `scale` is what its values are; `rows_apart` whether rows can be read without those before them.
    """

    path: Path
    name: str
    stamp: list[int]
    report: dict[str, Any]
    scale: Scale
    rows_apart: bool


@dataclass(frozen=True, eq=False)
class CorpusPlan:
    """What is to be done to make a corpus.

    Parameters
    ----------
    out
        The corpus folder that is to be.
    files
        In the order of the corpus.
    settings, vocabulary
        How files become cells.
    opened
        Files that are still open from planning, by number; whoever takes one closes it.
    """

    out: Path
    files: list[PlannedFile]
    settings: CorpusSettings
    vocabulary: GeneVocabulary
    opened: dict[int, OpenedCounts] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where the work is done."""
        return unfinished(self.out)

    @cached_property
    def parts(self) -> list[list[Part]]:
        """The parts of each file."""
        without = self.settings.read.without
        table = {"without": sha256_of(Path(without))} if without else {}
        return [
            parts_of(
                file.report["n_cells_file"], {"name": file.name, "stamp": file.stamp, **table},
                self.settings, self.vocabulary,
            )
            for file in self.files
        ]  # fmt: skip

    def is_done(self, part: Part) -> bool:
        """Return whether a part needs no more work."""
        return (self.folder / part.entry).exists()

    def pending(self) -> list[tuple[int, int]]:
        """Return (file, part) of all that is still to be done, in order."""
        return [
            (file, number)
            for file, parts in enumerate(self.parts)
            for number, part in enumerate(parts)
            if not self.is_done(part)
        ]

    def close(self) -> None:
        """Close the files that are still open."""
        while self.opened:
            self.opened.popitem()[1].source.close()

    def counts(self) -> dict[str, int]:
        """Return how many files, parts, rows and finished parts there are."""
        n_parts = sum(map(len, self.parts))
        return {
            "n_files": len(self.files),
            "n_parts": n_parts,
            "n_parts_done": n_parts - len(self.pending()),
            "n_cells_file": sum(file.report["n_cells_file"] for file in self.files),
        }

    def discard(self) -> None:
        """Remove the work, unless so much of it is done that another call should be able to use it."""
        done = [part for parts in self.parts for part in parts if self.is_done(part)]
        if sum(part.stop - part.start for part in done) < _WORTH_KEEPING:
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            logger.warning(
                "%s finished parts stay in %s; a call with the same settings and files uses them",
                f"{len(done):,}", self.folder,
            )  # fmt: skip

    def save(self) -> None:
        """Write the plan and the vocabulary; parts of an earlier plan stay, and are used where they fit."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.vocabulary.save(self.folder)
        files = [{**asdict(file), "path": str(file.path.resolve())} for file in self.files]
        with atomic_path(self.folder / PLAN) as temporary:
            plan = {"kind": f"{CORPUS_KIND} plan", "settings": asdict(self.settings), "files": files}
            temporary.write_text(json.dumps(plan, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, out: Path | str) -> CorpusPlan:
        """Read the plan of the corpus `out`.

        Raises
        ------
        FileNotFoundError
            There is none.
        """
        out = Path(out)
        try:
            plan = json.loads((unfinished(out) / PLAN).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{unfinished(out)} holds no plan; make one with "
                f"geneformer-grn tokenize FILE... --out {out} --plan"
            ) from None
        files = [PlannedFile(**{**file, "path": Path(file["path"])}) for file in plan["files"]]
        settings = CorpusSettings.from_dict(plan["settings"])
        return cls(out, files, settings, GeneVocabulary.load(unfinished(out)))


def is_finished(out: Path) -> bool:
    """Return whether the corpus `out` is there and nothing is planned for it: a repeated call has no work."""
    return (out / MANIFEST).is_file() and not (unfinished(out) / PLAN).is_file()


def unfinished(out: Path) -> Path:
    """Return the folder in which the corpus `out` is being made."""
    return out.with_name(f"{out.name}.unfinished")


def make_plan(
    files: Sequence[Path | str],
    out: Path,
    vocabulary: GeneVocabulary,
    settings: CorpusSettings,
    *,
    keep_open: int = 0,
) -> CorpusPlan:
    """Open every file once, refuse what its header tells, and return what is to be done; nothing is written.

    Parameters
    ----------
    files, out, vocabulary, settings
        As of ``write_corpus``.
    keep_open
        Leave so many files open for who does the work: opening a small file costs as much as ranking it.

    Raises
    ------
    FileNotFoundError, ValueError
        A file is missing, given twice, or refused (see :func:`geneformer_grn.cells.reading.open_counts`).
    """
    plan = CorpusPlan(out, [], settings, vocabulary)
    try:
        for number, (path, name) in enumerate(_names(files).items()):
            stamp = stamp_of(path)
            opened = plan.opened[number] = open_counts(
                path, vocabulary, settings.read, n_cells=settings.n_cells, seed=settings.seed, name=name
            )
            if missing := [column for column in settings.columns if column not in opened.source.obs]:
                raise ValueError(
                    f"{name}: obs has no column {missing[0]!r}; columns there: "
                    f"{', '.join(map(str, opened.source.obs.columns)) or 'none'}"
                )
            file = PlannedFile(
                path=path, name=name, stamp=stamp, report=opened.report(), scale=opened.scale,
                rows_apart=opened.source.matrix.seekable,
            )  # fmt: skip
            plan.files.append(file)
            if number >= keep_open:
                plan.opened.pop(number).source.close()
    except BaseException:
        plan.close()
        raise
    return plan


def open_planned(plan: CorpusPlan, file: int) -> OpenedCounts:
    """Open a file of a plan.

    Raises
    ------
    ValueError
        It changed since it was planned.
    """
    planned, settings = _unchanged(plan, file), plan.settings
    return plan.opened.pop(file, None) or open_counts(
        planned.path, plan.vocabulary, settings.read, n_cells=settings.n_cells, seed=settings.seed,
        name=planned.name, scale=planned.scale,
    )  # fmt: skip


def _unchanged(plan: CorpusPlan, file: int) -> PlannedFile:
    planned = plan.files[file]
    if stamp_of(planned.path) != planned.stamp:
        raise ValueError(f"{planned.name} changed since its work was planned; plan it again by the same call")
    return planned


def hash_file(plan: CorpusPlan, file: int, *, stop: threading.Event | None = None) -> str:
    """Return the sha256 of a file of a plan, see :func:`sha256_of`; it is kept once known."""
    planned = _unchanged(plan, file)
    text = json.dumps([planned.name, planned.stamp])
    note = plan.folder / f"hash-{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"
    if note.exists():
        return str(json.loads(note.read_text(encoding="utf-8"))["sha256"])
    digest = sha256_of(planned.path, stop=stop)
    write_json(note, {"sha256": digest})
    return digest


def finish_plan(plan: CorpusPlan) -> None:
    """Join the parts of a plan to the corpus, and remove the folder in which it was made.

    Raises
    ------
    ValueError
        Parts are missing, a file is refused for what the whole of it tells, or no cell is left.
    """
    if missing := plan.pending():
        raise ValueError(
            f"{len(missing):,} of {sum(map(len, plan.parts)):,} parts of {plan.out} are not done yet; do "
            f"them with geneformer-grn corpus task {plan.out}, then finish"
        )
    entries, shards = [], []
    for number, (file, parts) in enumerate(zip(plan.files, plan.parts, strict=True)):
        done = [json.loads((plan.folder / part.entry).read_text(encoding="utf-8")) for part in parts]
        total: dict[str, Any] = {key: sum(entry[key] for entry in done) for key in done[0]}
        lost = check_file(file.name, file.report, total, plan.settings)
        warn_lost(file.name, file.report, lost)
        filled = [part.shard for part, entry in zip(parts, done, strict=True) if entry["n_cells"]]
        del total["n_read"]
        facts = {**file.report, **total, "share_counts_lost": lost}
        entries.append({"name": file.name, "sha256": hash_file(plan, number), **facts})
        _tell(entries[-1])
        shards.append(filled)
    if not any(shards):
        raise ValueError(
            f"no cell is left: all have fewer than {plan.settings.min_genes} known genes"
            + (f" or {plan.settings.min_counts:g} counts" if plan.settings.min_counts else "")
        )
    names = [f"data-{n:05d}-of-{sum(map(len, shards)):05d}.arrow" for n in range(sum(map(len, shards)))]
    unnamed = iter(names)
    for entry, filled in zip(entries, shards, strict=True):
        entry["shards"] = [next(unnamed) for _ in filled]
    # Assembled beside the parts, so that whatever moment it is killed at leaves nothing elsewhere.
    folder, replaced = plan.folder / "corpus", plan.folder / "replaced"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, shard in zip(names, [shard for filled in shards for shard in filled], strict=True):
        link_or_copy(plan.folder / shard, folder / name)
    write_json(folder / MANIFEST, _manifest(plan, entries))
    for name in VOCABULARY_FILES:
        if (plan.folder / name).exists():
            link_or_copy(plan.folder / name, folder / name)
    write_dataset_files(folder, names, plan.vocabulary.fingerprint)
    if plan.out.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        plan.out.rename(replaced)
    folder.rename(plan.out)
    shutil.rmtree(plan.folder)


def _tell(entry: dict[str, Any]) -> None:
    """Say what became of a file's genes and cells."""
    dropped = {
        name.removeprefix("n_dropped_").replace("_", " "): number
        for name, number in entry.items()
        if name.startswith("n_dropped_") and number
    }
    logger.info(
        "%s: %s of %s genes known (%s in %s; %s lost, %s summed, %s ambiguous), %.1f %% of counts outside "
        "the vocabulary; %s of %s cells%s",
        entry["name"], f"{entry['n_matched']:,}", f"{entry['n_genes']:,}", entry["naming"],
        entry["identifiers"],
        f"{entry['n_lost']:,}", f"{entry['n_summed']:,}", f"{entry['n_ambiguous']:,}",
        100 * entry["share_counts_lost"], f"{entry['n_cells']:,}", f"{entry['n_cells_file']:,}",
        "".join(f", {number:,} dropped ({reason})" for reason, number in dropped.items()),
    )  # fmt: skip


def _manifest(plan: CorpusPlan, entries: list[dict[str, Any]]) -> dict[str, Any]:
    vocabulary, settings = plan.vocabulary, asdict(plan.settings)
    if without := settings["read"]["without"]:
        settings["read"]["without"] = Path(without).name
    return {
        "kind": CORPUS_KIND,
        "format": 1,
        "versions": library_versions(),
        "vocabulary": {
            "fingerprint": vocabulary.fingerprint, "setting": vocabulary.setting,
            "n_genes": len(vocabulary) - vocabulary.n_special, "max_length": vocabulary.max_length,
        },
        "settings": settings,
        "seed": plan.settings.seed,
        **{name: sum(entry[name] for entry in entries) for name in _TOTALS},
        "files": entries,
    }  # fmt: skip


def _names(files: Sequence[Path | str]) -> dict[Path, str]:
    """Return the name in the corpus of each file, checking that all are there before any work is done."""
    names: dict[Path, str] = {}
    stems: set[str] = set()
    known: set[Path] = set()
    for file in map(Path, files):
        if not file.exists():
            raise FileNotFoundError(f"{file}: no such file")
        if file.resolve() in known:
            raise ValueError(f"{file} is given twice; its cells would count twice")
        known.add(file.resolve())
        # By stem, which is what cells are called after: cells.h5ad and cells.loom are told apart, too.
        stem, number = file.stem, 1
        while stem in stems:
            number += 1
            stem = f"{file.stem}~{number}"
        stems.add(stem)
        names[file] = f"{stem}{file.suffix}"
    if not names:
        raise ValueError("no files to tokenize were given")
    return names
