"""The work of a plan on many machines: as the tasks of an array, or on Ray.

Machines share nothing but a disk. The plan tells all of them the same, and a part that is done is seen by
all.
"""

from __future__ import annotations

from pathlib import Path

from geneformer_grn._runtime import n_cores, progress
from geneformer_grn.cells.corpora.plan import CorpusPlan, hash_file
from geneformer_grn.cells.corpora.tokenizing import groups, raise_refusal, run_elsewhere, run_group
from geneformer_grn.cells.stamps import check_share


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
    check_share(index, count)
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
    task = ray.remote(num_cpus=threads, max_retries=2)(run_elsewhere)
    waiting = [
        task.remote(plan.out.resolve(), group, threads) for group in groups(plan, plan.pending(), apart=True)
    ]
    with progress(total=len(waiting), desc="tokenize", unit="group") as bar:
        try:
            while waiting:
                (ready,), waiting = ray.wait(waiting)
                raise_refusal(ray.get(ready))
                bar.update()
        except BaseException:
            for task_left in waiting:
                ray.cancel(task_left)
            if waiting:  # their folder may be about to be removed
                ray.wait(waiting, num_returns=len(waiting))
            raise
