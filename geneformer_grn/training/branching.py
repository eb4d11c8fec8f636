"""Branches of a run: several lengths for little more than the price of the longest.

A ``wsd`` run keeps its learning rate until the decline begins, whatever its length. So one run at the
constant rate gives many: from its checkpoint at 80 % of a shorter length, that length's decline is all there
is left to compute. A branch is, bit for bit on a CPU, the run that had been planned so from its first step;
what would make it another one is refused.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geneformer_grn._runtime import atomic_path
from geneformer_grn.training.checkpoints import Position, checkpoint_folder, write_position
from geneformer_grn.training.config import OptimSection
from geneformer_grn.training.schedule import learning_rate
from geneformer_grn.training.tracking import FILE, cut_log, read_log


def read_branch_point(text: str) -> tuple[Path, int]:
    """Return folder and step of ``RUN_DIR@STEP``.

    Raises
    ------
    ValueError
        It is not written so.

    Examples
    --------
    >>> read_branch_point("runs/trunk@400")[1]
    400
    """
    folder, _, step = text.rpartition("@")
    if not folder or not step.isdecimal():
        raise ValueError(f"a branch begins at RUN_DIR@STEP, such as runs/trunk@400; found {text!r}")
    return Path(folder), int(step)


def require_same_rates(point: tuple[Path, int], optim: OptimSection, *, total_steps: int) -> None:
    """Raise unless a branch would have come to its beginning with the learning rates that the run had.

    Parameters
    ----------
    point
        Folder of the run and step of its checkpoint; the rates are those of its log.
    optim
        Of the branch.
    total_steps
        Updates of the branch, those before its beginning included.

    Raises
    ------
    ValueError
        A learning rate would have been another one, or the branch would end before it begins.
    """
    folder, step = point
    if total_steps <= step:
        raise ValueError(
            f"a run of {total_steps:,} steps in all cannot branch off at step {step:,}; set a longer "
            "run.max_steps, or begin at an earlier checkpoint"
        )
    logged = {line["step"]: line["lr"] for line in read_log(folder / FILE) if "lr" in line}
    for number in range(1, step + 1):
        rate, was = learning_rate(number - 1, total_steps, optim), logged.get(number, math.nan)
        if not math.isclose(rate, was, rel_tol=1e-12):
            raise ValueError(
                f"no branch at step {step:,} of {folder.name}: in step {number:,} its learning rate was "
                f"{was:.3g}, and that of a run of {total_steps:,} steps is {rate:.3g}. Begin before the rate "
                "falls in either (optim.schedule = 'wsd')"
            )


def copy_branch_point(
    point: tuple[Path, int], out: Path, position: Position, facts: Mapping[str, Any]
) -> None:
    """Copy log and checkpoint into the branch's folder, which is a run of its own from then on.

    Parameters
    ----------
    point
        As in `require_same_rates`.
    out
        Folder of the branch.
    position, facts
        Of the branch, as in `save_training_state`.
    """
    folder, step = point
    with atomic_path(out / FILE) as temporary:
        shutil.copyfile(folder / FILE, temporary)
        cut_log(temporary, step)
    with atomic_path(checkpoint_folder(out, step)) as temporary:
        shutil.copytree(checkpoint_folder(folder, step), temporary)
        write_position(temporary, position, facts)
