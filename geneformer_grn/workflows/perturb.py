"""In-silico perturbation of cells: from counts or a file to tables, however often it is interrupted.

What the faces call: ``geneformer-grn perturb`` and ``perturb-merge``, and ``gg.tl.perturb``. All go the same
way, through parts in a work folder, so that all give the same tables.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geneformer_grn._runtime import choose_device, logger, plain_json
from geneformer_grn.cells.counts import CellCounts, read_counts
from geneformer_grn.cells.reading import ReadSettings
from geneformer_grn.workflows.perturb_job import PerturbJob, make_job
from geneformer_grn.workflows.perturb_options import PerturbOptions, parse_genes, split_names
from geneformer_grn.workflows.perturb_parts import (
    PLAN,
    PerturbSource,
    PerturbWork,
    differences,
    process_share,
    unfinished,
    weights_digest,
)
from geneformer_grn.workflows.perturb_results import PerturbTables, finish, read_tables, record
from geneformer_grn.workflows.perturb_tables import write_tables

if TYPE_CHECKING:
    from geneformer_grn.model.encoder import Encoder

__all__ = [
    "PerturbOptions", "PerturbSource", "PerturbTables", "merge_perturbation", "parse_genes", "perturb_counts",
    "perturb_file", "split_names",
]  # fmt: skip


def perturb_file(
    source: PerturbSource, out: Path, options: PerturbOptions, *, share: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Perturb genes in silico in the cells of a file, and write the tables into a folder.

    Interrupted at any moment, the same call goes on where it was; the tables come out the same to the byte.
    Started by torchrun or accelerate, its processes share the parts and the first of them finishes.

    Parameters
    ----------
    source
        The cells and the model.
    out
        Folder to write; until then ``OUT.unfinished`` holds the work.
    options
        What to do.
    share
        Do only every N-th part from part I on, given as (I, N), and leave; None: all, and finish.

    Returns
    -------
    dict
        What was done, in plain values; of a share, or a process that does not finish, how many parts.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        The file is missing; `out` is a file.
    ValueError
        See `make_job`; the work folder belongs to another run; bf16 is too coarse for these effects.
    """
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"cannot write to {out}: it is a file, not a folder; choose another")
    with _processes(source.device) as barrier:
        from geneformer_grn.model.encoder import load_encoder

        encoder = load_encoder(source.model, device=source.device, precision=source.precision)
        _require_possible(encoder, options)
        counts = read_counts(
            source.file, encoder.vocabulary, source.read, n_cells=source.n_cells, seed=options.seed
        )
        job = make_job(counts, encoder.vocabulary, options)
        index, count = process_share(share or (0, 1))
        alone = count == 1
        work = PerturbWork.open(
            unfinished(out), _facts(job, source, encoder), _whereabouts(source), alone=alone
        )
        barrier()
        with work.kept_if_used(alone=alone):
            if source.precision == "bf16":
                from geneformer_grn.perturbation.noise import require_fine

                require_fine(work.noise(job, encoder))
            work.run_share(job, (index, count), encoder)
        if share is not None or index > 0:
            n_parts = len(job.parts)
            logger.info("%d of %d parts are done; perturb-merge joins them", work.n_done(), n_parts)
            return {"finished": False, "n_parts": n_parts, "n_parts_done": work.n_done()}
        work.wait()
        facts = finish(job, [work], out)
        shutil.rmtree(work.folder)
    return {"finished": True, "model": encoder.name, **facts}


def merge_perturbation(folders: Sequence[Path], out: Path, *, seed: int | None = None) -> dict[str, Any]:
    """Join the parts of one run, of one work folder or of several, into its tables.

    Parameters
    ----------
    folders
        The ``--out`` of the calls that made the parts, or their work folders.
    out
        Folder to write. Its own work folder is removed then, all others stay.
    seed
        What the seed of the parts should be; None: whatever it is.

    Returns
    -------
    What was done.

    Raises
    ------
    FileNotFoundError
        A folder holds no parts; the file of cells is not where it was.
    ValueError
        The folders belong to different runs or to one of another seed, parts are missing, or the file changed
        meanwhile.

    Examples
    --------
    >>> merge_perturbation([Path("node1"), Path("node2")], Path("screen"))  # doctest: +SKIP
    """
    from geneformer_grn.model.folder import read_vocabulary, resolve_checkpoint

    works = [PerturbWork.load(_work_folder(folder)) for folder in folders]
    first = works[0]
    for work in works[1:]:
        if work.fingerprint != first.fingerprint:
            raise ValueError(
                f"{work.folder.name} belongs to another run than {first.folder.name}: it has other "
                f"{differences(first.plan['run'], work.plan['run'])}; leave it out"
            )
    run, where = first.plan["run"], first.plan["source"]
    if seed not in {None, run["seed"]}:
        raise ValueError(f"the parts were made with seed {run['seed']}, not {seed}; leave --seed out")
    if not Path(where["file"]).exists():
        raise FileNotFoundError(f"{where['file']}, which {first.folder.name} was planned for, is not there")
    vocabulary = read_vocabulary(resolve_checkpoint(where["model"]))
    options = PerturbOptions(**{name: _as_given(run[name]) for name in PerturbOptions.__dataclass_fields__})
    read = ReadSettings(**run["read"])
    counts = read_counts(Path(where["file"]), vocabulary, read, n_cells=run["n_cells"], seed=options.seed)
    job = make_job(counts, vocabulary, options)
    found = job.facts()
    if changed := {key: value for key, value in found.items() if run[key] != value}:
        raise ValueError(
            f"{run['file']} or the package changed since {first.folder.name} was planned: other "
            f"{differences({key: run[key] for key in changed}, changed)}; delete the folder to start again"
        )
    facts = finish(job, works, out)
    if (own := unfinished(out)).resolve() in {work.folder.resolve() for work in works}:
        shutil.rmtree(own)
    return {"model": run["model"], "kind": options.kind, **facts, "seed": options.seed}


def perturb_counts(encoder: Encoder, counts: CellCounts, options: PerturbOptions) -> PerturbTables:
    """Perturb genes in silico in cells that are in memory.

    Parameters
    ----------
    encoder
        The model.
    counts
        Cells read with its vocabulary.
    options
        What to do.

    Returns
    -------
    The tables, in memory too.

    Raises
    ------
    ValueError
        See `make_job`; bf16 is too coarse for these effects.
    """
    _require_possible(encoder, options)
    job = make_job(counts, encoder.vocabulary, options)
    with tempfile.TemporaryDirectory(prefix="geneformer-grn-") as name:
        work = PerturbWork.open(Path(name) / "work", job.facts(), {})
        if encoder.precision == "bf16":
            from geneformer_grn.perturbation.noise import require_fine

            require_fine(work.noise(job, encoder))
        work.run_share(job, (0, 1), encoder)
        tables = Path(name) / "tables"
        tables.mkdir()
        facts = write_tables(job, [work], tables)
        return read_tables(tables, facts, record(job, facts, model=encoder.name, precision=encoder.precision))


@contextmanager
def _processes(device: str) -> Iterator[Callable[[], object]]:
    """Join the processes of a launch, each with its own GPU; yield what makes them wait for each other.

    They wait once, before the first part. Without that, a process could find the work finished and removed
    by the others, and begin it anew.
    """
    if process_share((0, 1)) == (0, 1):
        yield lambda: None
        return
    from accelerate import PartialState

    processes = PartialState(cpu=choose_device(device).type == "cpu")
    try:
        yield processes.wait_for_everyone
    finally:
        processes.destroy_process_group()


def _facts(job: PerturbJob, source: PerturbSource, encoder: Encoder) -> dict[str, Any]:
    """Return all that the bytes of the parts depend on."""
    return {
        **job.facts(),
        "file": source.file.name,
        "read": plain_json(asdict(source.read)),
        "n_cells": source.n_cells,
        "model": encoder.name,
        "weights": weights_digest(encoder),
        "device": encoder.device.type,
        "precision": encoder.precision,
    }


def _whereabouts(source: PerturbSource) -> dict[str, str]:
    folder = Path(source.model)
    return {
        "file": str(source.file.resolve()),
        "model": str(folder.resolve()) if folder.is_dir() else source.model,
    }


def _require_possible(encoder: Encoder, options: PerturbOptions) -> None:
    """Raise ValueError, before any cell is read, where the model lacks the layer or bf16 cannot be judged."""
    encoder.require_layer(options.encoder_layer)
    if encoder.precision != "bf16":
        return
    others = [name for name in options.readouts or () if name not in {"cell", "state"}]
    others += ["interaction"] * options.pairs + ["beyond_anchor"] * (options.anchor is not None)
    if others:
        raise ValueError(
            f"the noise of bf16 is measured for the readouts cell and state, not for {', '.join(others)}; "
            "run with precision fp32"
        )


def _work_folder(folder: Path) -> Path:
    """Return the work folder that a user means: it, or the one of the ``--out`` that was given."""
    candidates = [folder, unfinished(folder)]
    for candidate in candidates:
        if (candidate / PLAN).is_file():
            return candidate
    raise FileNotFoundError(
        f"no unfinished perturbation in {' or '.join(map(str, candidates))}; make its parts with "
        "geneformer-grn perturb FILE --out DIR --part I/N"
    )


def _as_given(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
