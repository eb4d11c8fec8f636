"""The work of a plan in this process or in a pool of them; ``cluster.py`` does it on many machines.

All call :func:`run_group`, so they differ in where the work is done and in nothing else.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from geneformer_grn._runtime import logger, n_cores, progress, raised_on_purpose
from geneformer_grn.cells.corpora.corpus import Corpus, require_corpus_place
from geneformer_grn.cells.corpora.part_writing import write_parts
from geneformer_grn.cells.corpora.plan import (
    PLAN,
    CorpusPlan,
    finish_plan,
    hash_file,
    make_plan,
    open_planned,
    unfinished,
)  # fmt: skip
from geneformer_grn.cells.corpora.shards import CorpusSettings
from geneformer_grn.genes.vocabulary import GeneVocabulary

_KEPT_OPEN = 16  # files at most, between planning and tokenising
Group = tuple[int, list[int]]  # a file of the plan, and consecutive parts of it


@dataclass(frozen=True)
class Refusal:
    """An error about the input, found in another process, where tracebacks do not travel."""

    kind: type[Exception]
    message: str


def write_corpus(
    files: Sequence[Path | str],
    out: Path | str,
    vocabulary: GeneVocabulary,
    settings: CorpusSettings | None = None,
    *,
    workers: int = 1,
    threads: int | None = None,
    ray: bool = False,
) -> Corpus:
    """Tokenise files into a corpus folder, in the order given; goes on where an earlier call was stopped.

    Parameters
    ----------
    files
        Count files of any kind that :func:`geneformer_grn.cells.opening.open_source` knows; none twice. Two
        of one name are told apart as ``cells`` and ``cells~2``.
    out
        The folder; written whole or not at all. A corpus that is there is replaced, anything else is not.
        Until it is complete, parts lie in ``OUT.unfinished``; a call that was killed is repeated and uses
        them.
    vocabulary
        Genes, medians and lengths; saved in the folder.
    settings
        See :class:`CorpusSettings`. The corpus depends on them, on the files and the vocabulary only.
    workers
        Processes.
    threads
        CPU threads of each process; default: the machine's, divided among the workers.
    ray
        Run on Ray instead, with `threads` cores a task.

    Returns
    -------
    Corpus
        Opened.

    Raises
    ------
    FileNotFoundError, FileExistsError
        A file is not there; `out` is something else than a corpus.
    ValueError
        A file is refused (see :func:`geneformer_grn.cells.counts.read_counts`), or no cell is left.
    """
    out = Path(out)
    require_corpus_place(out)
    here = workers == 1 and not ray
    plan = make_plan(
        files, out, vocabulary, settings or CorpusSettings(), keep_open=_KEPT_OPEN if here else 0
    )
    try:
        if ray:
            from geneformer_grn.cells.corpora.cluster import run_on_ray

            run_on_ray(plan, threads=threads or 1)
        else:
            run_plan(plan, workers=workers, threads=threads)
        finish_plan(plan)
    except Exception as error:
        if raised_on_purpose(error):  # about the input: nothing may be left that looks like a result
            plan.discard()
        raise
    finally:
        plan.close()
    corpus = Corpus.open(out)
    logger.info("wrote %s: %s cells, %s tokens", out, f"{len(corpus):,}", f"{int(corpus.offsets[-1]):,}")
    return corpus


def plan_corpus(
    files: Sequence[Path | str], out: Path | str, vocabulary: GeneVocabulary, settings: CorpusSettings
) -> CorpusPlan:
    """Plan the work of :func:`write_corpus` and write the plan, for :func:`run_share` on many machines.

    Raises
    ------
    FileNotFoundError, FileExistsError, ValueError
        As of :func:`write_corpus`, as far as the files' headers tell.
    """
    out = Path(out)
    require_corpus_place(out)
    plan = make_plan(files, out, vocabulary, settings)
    plan.save()
    counts = plan.counts()
    logger.info(
        "planned %s: %s parts of %s files, %s cells, %s parts done; do them with geneformer-grn corpus task "
        "%s --share I/N",
        plan.folder, f"{counts['n_parts']:,}", f"{counts['n_files']:,}", f"{counts['n_cells_file']:,}",
        f"{counts['n_parts_done']:,}", out,
    )  # fmt: skip
    return plan


def run_plan(plan: CorpusPlan, *, workers: int = 1, threads: int | None = None) -> None:
    """Do all parts of a plan that are not done, and hash the files meanwhile.

    Parameters
    ----------
    plan
        What to do; saved first.
    workers
        Processes; 1: this one.
    threads
        CPU threads of each process; default: the machine's, divided among the workers.

    Raises
    ------
    ValueError
        A file is refused.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}; it must be at least 1")
    threads = threads or max(1, n_cores() // workers)
    plan.save()
    pending = plan.pending()
    n_parts = sum(map(len, plan.parts))
    stop = threading.Event()
    with ThreadPoolExecutor(1) as hashing, progress(total=n_parts, desc="tokenize", unit="part") as bar:
        hashes = [hashing.submit(hash_file, plan, file, stop=stop) for file in range(len(plan.files))]
        bar.update(n_parts - len(pending))
        try:
            for _ in (
                _here(plan, pending, threads) if workers == 1 else _in_pool(plan, pending, workers, threads)
            ):
                bar.update()
            for future in hashes:
                future.result()
        except BaseException:
            stop.set()  # nothing may be written to the folder any more: it may be about to be removed
            raise


def groups(plan: CorpusPlan, pending: Sequence[tuple[int, int]], *, apart: bool = False) -> list[Group]:
    """Return the pending parts as runs read in one pass; `apart`: one by one where rows are read freely."""
    found: list[Group] = []
    for file, number in pending:
        free = apart and plan.files[file].rows_apart
        if not free and found and found[-1][0] == file and found[-1][1][-1] == number - 1:
            found[-1][1].append(number)
        else:
            found.append((file, [number]))
    return found


def run_group(out: Path, file: int, numbers: Sequence[int], *, threads: int = 1) -> list[dict[str, Any]]:
    """Do some consecutive parts of a file of the plan of `out`; the one function behind every way to run.

    Parameters
    ----------
    out
        The corpus folder that is to be, as planned.
    file
        Which file of the plan.
    numbers
        Which of its parts, ascending without a gap; those that are done are done again, with the same result.
    threads
        CPU threads.

    Returns
    -------
    list of dict
        What each part holds.

    Raises
    ------
    FileNotFoundError
        There is no such plan.
    ValueError
        The file changed since it was planned, or is refused.
    """
    plan = _loaded(out, (unfinished(out) / PLAN).stat().st_mtime_ns)
    return list(run_parts(plan, file, numbers, threads))


@lru_cache(maxsize=1)
def _loaded(out: Path, _: int) -> CorpusPlan:
    """Return a plan, read once a process for each state of its file."""
    return CorpusPlan.load(out)


def run_parts(
    plan: CorpusPlan, file: int, numbers: Sequence[int], threads: int = 1
) -> Iterator[dict[str, Any]]:
    """Yield what each of some consecutive parts of a file holds, as they are written."""
    if not numbers:
        return
    parts = [plan.parts[file][number] for number in numbers]
    with open_planned(plan, file) as opened:
        yield from write_parts(
            opened, plan.vocabulary, parts, folder=plan.folder, settings=plan.settings, threads=threads
        )


def _here(plan: CorpusPlan, pending: list[tuple[int, int]], threads: int) -> Iterator[dict[str, Any]]:
    """Do the pending parts in this process, each file in as few passes as may be."""
    for file, numbers in groups(plan, pending):
        yield from run_parts(plan, file, numbers, threads)


def _in_pool(plan: CorpusPlan, pending: list[tuple[int, int]], workers: int, threads: int) -> Iterator[int]:
    """Yield once for each part that a pool of processes did."""
    todo = groups(plan, pending, apart=True)
    context = multiprocessing.get_context("spawn")  # forking a process that runs threads may hang
    with ProcessPoolExecutor(min(workers, max(1, len(todo))), mp_context=context) as pool:
        futures: list[Future[int | Refusal]] = [
            pool.submit(run_elsewhere, plan.out.resolve(), group, threads) for group in todo
        ]
        try:
            for future in as_completed(futures):
                yield from range(raise_refusal(future.result()))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)  # their folder may be about to be removed
            raise


def run_elsewhere(out: Path, group: Group, threads: int) -> int | Refusal:
    """Do a group in another process, bringing errors about the input home as values.

    Only what this package raised on purpose is a refusal; anything else is raised as the fault that it is.
    """
    try:
        return len(run_group(out, *group, threads=threads))
    except (ValueError, TypeError, OSError) as error:
        if not raised_on_purpose(error):
            raise
        return Refusal(kind=type(error), message=str(error))


def raise_refusal(result: int | Refusal) -> int:
    """Return how many parts were done elsewhere, or raise the refusal that came instead."""
    if isinstance(result, Refusal):
        raise result.kind(result.message)
    return result
