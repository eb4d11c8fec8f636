"""The work folder of a screen: its plan, which genes were chosen, and the parts that were run exactly.

``OUT.unfinished`` holds ``plan.json``, ``chosen.npz`` once the estimate is made, and ``exact``, the work
folder of a perturbation. A call that was killed is repeated and does what is missing. The list is kept, not
estimated again: rounding could change it, and the parts would then be of other genes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geneformer_grn._runtime import atomic_path, logger, write_json
from geneformer_grn.workflows.perturb_parts import PLAN, differences

_KIND = "geneformer-grn screen"
_CHOSEN = "chosen.npz"


@dataclass(frozen=True)
class ScreenWork:
    """A work folder, opened.

    Parameters
    ----------
    folder
        ``OUT.unfinished``.
    """

    folder: Path

    @property
    def exact(self) -> Path:
        """The work folder of what is run exactly."""
        return self.folder / "exact"

    @classmethod
    def open(cls, folder: Path, facts: Mapping[str, Any]) -> ScreenWork:
        """Open the work folder of a screen, or start one; one in which nothing is done yet is replaced.

        Parameters
        ----------
        folder
            The work folder.
        facts
            What the screen is, in plain values.

        Raises
        ------
        ValueError
            The folder holds another run, or a damaged plan.
        """
        work = cls(folder)
        fingerprint = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        if (folder / PLAN).is_file():
            known = work._plan()
            if known["fingerprint"] == fingerprint:
                return work
            if work._has_list() or work.n_done():
                raise ValueError(
                    f"{folder.name} holds an unfinished screen with other "
                    f"{differences(known['run'], facts)}; give the same input and options to go on with it, "
                    "delete that folder to start again, or choose another --out"
                )
            shutil.rmtree(folder)
        plan = {"kind": _KIND, "format": 1, "fingerprint": fingerprint, "run": facts}
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / PLAN, plan)
        return work

    def n_done(self) -> int:
        """Return how many parts were run exactly."""
        return sum(1 for path in (self.exact / "parts").glob("*") if path.is_file())

    def chosen(self, make: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Return the arrays that `make` returns, or those of an earlier call that did not finish."""
        path = self.folder / _CHOSEN
        if self._has_list():
            logger.info("going on with the genes that were chosen before; %d parts are done", self.n_done())
        else:
            with atomic_path(path) as temporary:
                np.savez(temporary, **make())  # type: ignore[arg-type]
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)

    @contextmanager
    def kept_if_used(self) -> Iterator[None]:
        """Remove the folder where it would keep nothing of use.

        After an error that is where no part was run exactly: what was asked may have to change. Stopped, it
        is where there is no list either.
        """
        try:
            yield
        except BaseException as error:
            has_list = self._has_list() and not isinstance(error, Exception)
            if not (has_list or self.n_done()):
                shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def _has_list(self) -> bool:
        return (self.folder / _CHOSEN).is_file()

    def _plan(self) -> dict[str, Any]:
        path = self.folder / PLAN
        try:
            plan = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is damaged: {error}; delete it and repeat the screen") from error
        if not isinstance(plan, dict) or plan.get("kind") != _KIND:
            raise ValueError(f"{path} is not the plan of a screen; choose another --out")
        return plan
