"""The work folder of a perturbation: a plan, and the parts that are done, whoever did them.

``OUT.unfinished`` holds ``plan.json``, ``parts/`` and what all parts need and only the model can tell
(``states.npz``, ``axes.npz``, ``noise.json``). One process, the processes of torchrun and the tasks of an
array all do the same: take the parts that are theirs and not there yet. A call that was killed is repeated
and does what is missing. The plan knows where the input lies; nothing else that is written does.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geneformer_grn._runtime import Precision, atomic_path, logger, progress, write_json
from geneformer_grn.cells.reading import ReadSettings

if TYPE_CHECKING:
    from geneformer_grn.model.encoder import Encoder
    from geneformer_grn.workflows.perturb_job import PerturbJob

PLAN = "plan.json"
_KIND = "geneformer-grn perturbation"
_POLL_S = 0.5
_LONG = 40  # longer values are named, not shown
_DERIVED = ("n_pairs", "n_parts")  # they differ because something else does


@dataclass(frozen=True, kw_only=True)
class PerturbSource:
    """The input of a perturbation, and how it is read and run.

    Parameters
    ----------
    file
        Cells with raw counts.
    model
        A shipped name, a checkpoint folder, or a Hugging Face id on disk.
    read
        How counts are read.
    n_cells
        Use a random sample of at most this many cells; None: all.
    device, precision
        How the model runs.
    """

    file: Path
    model: str = "mini"
    read: ReadSettings = field(default_factory=ReadSettings)
    n_cells: int | None = None
    device: str = "auto"
    precision: Precision = "fp32"


@dataclass(frozen=True, eq=False)
class PerturbWork:
    """A work folder, opened.

    Parameters
    ----------
    folder
        ``OUT.unfinished``.
    plan
        What is in ``plan.json``.
    """

    folder: Path
    plan: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Tells parts of this run from those of others."""
        return str(self.plan["fingerprint"])

    @classmethod
    def open(
        cls, folder: Path, facts: Mapping[str, Any], source: Mapping[str, Any], *, alone: bool = False
    ) -> PerturbWork:
        """Open the work folder of a run, or start one.

        Parameters
        ----------
        folder
            The work folder.
        facts
            What the run is, in plain values; another run is refused by what differs.
        source
            Where its input lies.
        alone
            No other process works in the folder: another run in which no part is done yet is replaced.

        Raises
        ------
        ValueError
            The folder holds another run.
        """
        fingerprint = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        plan = {"kind": _KIND, "format": 1, "fingerprint": fingerprint, "run": facts, "source": source}
        if (folder / PLAN).is_file():
            known = cls.load(folder)
            if known.fingerprint == fingerprint:
                return known
            if not alone or known.n_done():
                other = differences(known.plan["run"], facts)
                raise ValueError(
                    f"{folder.name} holds an unfinished run with other {other}; give the same input and "
                    "options to go on with it, delete that folder to start again, or choose another --out"
                )
            shutil.rmtree(folder)
        (folder / "parts").mkdir(parents=True, exist_ok=True)
        # Not write_json, which leaves folders out: the plan is what says where the input is.
        with atomic_path(folder / PLAN) as temporary:
            temporary.write_text(json.dumps(plan, indent=1), encoding="utf-8")
        return cls(folder, plan)

    @classmethod
    def load(cls, folder: Path) -> PerturbWork:
        """Read the plan of a work folder.

        Raises
        ------
        FileNotFoundError, ValueError
            There is none, or it is none of a perturbation.
        """
        try:
            plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise FileNotFoundError(f"{folder} holds no unfinished perturbation: no {PLAN}") from None
        except json.JSONDecodeError as error:
            raise ValueError(f"{folder / PLAN} is damaged: {error}; delete it and repeat the run") from error
        if not isinstance(plan, dict) or plan.get("kind") != _KIND:
            raise ValueError(f"{folder / PLAN} is not the plan of a perturbation; choose another folder")
        return cls(folder, plan)

    def part(self, number: int, readout: str = "") -> Path:
        """Return the file of a part's values, or of its sums for a readout."""
        from geneformer_grn.perturbation.part_files import part_path

        return part_path(self.folder / "parts", number, readout)

    def has(self, number: int) -> bool:
        """Return whether a part is done."""
        return self.part(number).is_file()

    def n_done(self) -> int:
        """Return how many parts are."""
        return sum(map(self.has, range(self.plan["run"]["n_parts"])))

    @contextmanager
    def kept_if_used(self, *, alone: bool) -> Iterator[None]:
        """Remove the folder again where something fails before any part is done, and nobody else uses it."""
        try:
            yield
        except BaseException:
            if alone and self.n_done() == 0:
                shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def run_share(self, job: PerturbJob, share: tuple[int, int], encoder: Encoder) -> None:
        """Do every `count`-th part from number `index` on, those left out that are done.

        Parameters
        ----------
        job
            The job of the plan.
        share
            Index, from 0, and count.
        encoder
            The model.
        """
        from geneformer_grn.perturbation.axes import GeneAxes
        from geneformer_grn.perturbation.part_files import write_part
        from geneformer_grn.perturbation.parts import perturb_part
        from geneformer_grn.workflows.perturb_job import axes_of_genes, mean_embeddings

        index, count = share
        mine = range(index, len(job.parts), count)
        todo = [number for number in mine if not self.has(number)]
        if not todo:
            return
        states = axes = None
        if job.states:
            states = self._kept("states", lambda: {"means": mean_embeddings(encoder, job)})["means"]
        if "genes" in job.settings.readouts:
            axes = GeneAxes(**self._kept("axes", lambda: vars(axes_of_genes(encoder, job))))
        sizes = [job.parts.size(number) for number in mine]
        done = sum(sizes) - sum(job.parts.size(number) for number in todo)
        if done:
            logger.info("%d of %d parts are there already", len(mine) - len(todo), len(mine))
        with progress(total=sum(sizes), initial=done, desc="perturbing", unit="pass") as bar:
            for number in todo:
                pairs = job.parts.pairs(number)
                result = perturb_part(
                    encoder, job.ranked, job.requests, (pairs.request, pairs.cell), job.settings,
                    states=None if states is None else dict(zip(job.states, states, strict=True)),
                    axes=axes, tell=bar.update,
                )  # fmt: skip
                write_part(self.folder / "parts", number, pairs, result, fingerprint=self.fingerprint)

    def wait(self) -> None:
        """Wait until all parts are there: other processes of the same launch do the rest.

        Ends because a launcher ends all processes of which one failed.
        """
        if (n_missing := self.plan["run"]["n_parts"] - self.n_done()) == 0:
            return
        logger.info("waiting for %d parts of other processes", n_missing)
        while self.n_done() < self.plan["run"]["n_parts"]:
            time.sleep(_POLL_S)

    def noise(self, job: PerturbJob, encoder: Encoder) -> dict[str, float]:
        """Return the noise floor of bf16 on this run's model and cells; measured once a run."""
        from geneformer_grn.workflows.perturb_job import measured_noise

        path = self.folder / "noise.json"
        if not path.is_file():
            write_json(path, measured_noise(encoder, job))
        return self.known_noise()

    def known_noise(self) -> dict[str, float]:
        """Return what was measured of it; nothing where nothing was."""
        path = self.folder / "noise.json"
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}

    def _kept(self, name: str, make: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Return arrays that all parts need, made by the first process that asks."""
        path = self.folder / f"{name}.npz"
        if not path.is_file():
            with atomic_path(path) as temporary:
                np.savez(temporary, **make())  # type: ignore[arg-type]
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)


def unfinished(out: Path) -> Path:
    """Return the folder in which the tables of `out` are being made."""
    return out.with_name(f"{out.name}.unfinished")


def differences(known: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Return by name what differs between two runs, with the values where they are short."""

    def told(key: str) -> str:
        values = [str(run.get(key)) for run in (known, asked)]
        return key if max(map(len, values)) > _LONG else f"{key} ({values[0]}, now {values[1]})"

    keys = [key for key in {**known, **asked} if known.get(key) != asked.get(key)]
    direct = [key for key in keys if key not in _DERIVED] or keys
    return " and ".join(map(told, direct))


def weights_digest(encoder: Encoder) -> str:
    """Return the sha256 of a model's weights."""
    digest = hashlib.sha256()
    for name, weights in sorted(encoder.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(weights.detach().cpu().numpy()).data)
    return digest.hexdigest()


def process_share(share: tuple[int, int]) -> tuple[int, int]:
    """Return which part of a share is this process's: all of it, unless torchrun or accelerate started more.

    Parameters
    ----------
    share
        Index, from 0, and count.
    """
    rank, n_processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    return share[0] + rank * share[1], share[1] * n_processes
