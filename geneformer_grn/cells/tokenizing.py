"""Ways to do the work of a plan: in this process, in a pool, as one of many cluster tasks, on Ray.

All of them call :func:`run_group`, so they differ in where the work is done and in nothing else.
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
from geneformer_grn.cells.corpus import Corpus, require_corpus_place
from geneformer_grn.cells.corpus_plan import (
    PLAN,
    CorpusPlan,
    finish_plan,
    hash_file,
    make_plan,
    open_planned,
    unfinished,
)  # fmt: skip
from geneformer_grn.cells.part_writing import write_parts
from geneformer_grn.cells.shards import CorpusSettings
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
        free = apart and plan.files[file].report["rows_apart"]
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


def run_share(out: Path, *, index: int, count: int, threads: int | None = None) -> int:
    """Do every `count`-th group of pending parts from number `index` on: one task of a cluster's array.

    Parameters
    ----------
    out
        The corpus folder that is to be, as planned.
    index, count
        Which share, from 0, of how many.
    threads
        CPU threads; default: the machine's.

    Returns
    -------
    int
        How many parts were done.

    Raises
    ------
    ValueError
        There is no such share, or a file is refused.
    """
    if not 0 <= index < count:
        raise ValueError(
            f"share {index} of {count} does not exist; shares are numbered from 0 to {count - 1}"
        )
    plan = CorpusPlan.load(out)
    everything = [(file, number) for file, parts in enumerate(plan.parts) for number in range(len(parts))]
    mine = groups(plan, everything, apart=True)[index::count]
    n_done = 0
    for file, numbers in progress(mine, desc="tokenize", unit="group"):
        numbers = [number for number in numbers if not plan.is_done(plan.parts[file][number])]
        for run in groups(plan, [(file, number) for number in numbers]):
            n_done += len(run_group(out, *run, threads=threads or n_cores()))
        if numbers and numbers[0] == 0:
            hash_file(plan, file)
    return n_done


def parse_share(text: str) -> tuple[int, int]:
    """Return index and count of a share such as ``3/100``.

    Raises
    ------
    ValueError
        It is not written so.
    """
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()):
        raise ValueError(f"--share {text!r} is not I/N, such as 3/100: the share numbered 3 of 100, from 0")
    return int(index), int(count)


def run_on_ray(plan: CorpusPlan, *, threads: int = 1) -> None:
    """Do the pending parts of a plan as tasks of the Ray cluster that is connected, or of a local one.

    Raises
    ------
    ImportError
        Ray is not installed.
    ValueError
        A file is refused.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            "Ray is not installed; pip install 'geneformer-grn[ray]', or leave --ray out"
        ) from error
    if not ray.is_initialized():
        ray.init(include_dashboard=False, configure_logging=False)
    plan.save()
    task = ray.remote(num_cpus=threads, max_retries=2)(_run_elsewhere)
    waiting = [
        task.remote(plan.out.resolve(), group, threads) for group in groups(plan, plan.pending(), apart=True)
    ]
    with progress(total=len(waiting), desc="tokenize", unit="group") as bar:
        while waiting:
            (ready,), waiting = ray.wait(waiting)
            _raise_refusal(ray.get(ready))
            bar.update()


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
            pool.submit(_run_elsewhere, plan.out.resolve(), group, threads) for group in todo
        ]
        try:
            for future in as_completed(futures):
                yield from range(_raise_refusal(future.result()))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _run_elsewhere(out: Path, group: Group, threads: int) -> int | Refusal:
    """Do a group in another process, bringing errors about the input home as values.

    Only what this package raised on purpose is a refusal; anything else is raised as the fault that it is.
    """
    try:
        return len(run_group(out, *group, threads=threads))
    except (ValueError, TypeError, OSError) as error:
        if not raised_on_purpose(error):
            raise
        return Refusal(kind=type(error), message=str(error))


def _raise_refusal(result: int | Refusal) -> int:
    if isinstance(result, Refusal):
        raise result.kind(result.message)
    return result
