"""The log of a run: one JSON object a line in ``log.jsonl``, always; a tracker only if it was asked for.

A resumed run first cuts the lines behind its checkpoint, so that the file reads as if nothing had happened.
Trackers get numbers and the config, whose paths are reduced to names; never names of cells or donors, the
console's text, the command line, or what the machine is called.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from geneformer_grn._runtime import atomic_path, plain_json

if TYPE_CHECKING:
    from accelerate import Accelerator

FILE = "log.jsonl"


class RunLog:
    """Append-only log of one run; rank 0 writes, other ranks do nothing.

    Parameters
    ----------
    out
        Folder of the run; the log is ``log.jsonl`` in it.
    accelerator
        Carries the tracker, if there is one.
    after_step
        Lines of later steps are removed first (0: a new log).
    """

    def __init__(self, out: Path, accelerator: Accelerator, *, after_step: int = 0) -> None:
        self._accelerator = accelerator
        self._file: IO[str] | None = None
        if accelerator.is_main_process:
            cut_log(out / FILE, after_step)
            self._file = (out / FILE).open("a", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record; it needs a ``step``."""
        if self._file is None:
            return
        self._file.write(json.dumps(plain_json(dict(record)), allow_nan=False) + "\n")
        self._accelerator.log(
            {key: value for key, value in record.items() if key != "step"}, step=record["step"]
        )

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Close the file and end the tracker's run."""
        if self._file is not None:
            self._file.close()
        for tracker in self._accelerator.trackers:  # not end_training: it would end the process group too
            tracker.finish()


def cut_log(path: Path, after_step: int) -> None:
    """Keep the lines of `path` up to and with `after_step`; a torn last line goes too.

    Parameters
    ----------
    path
        The log; it need not exist.
    after_step
        Last step whose lines stay.
    """
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            step = json.loads(line)["step"]
        except (json.JSONDecodeError, KeyError, TypeError):
            break
        if step > after_step:
            break
        kept.append(line + "\n")
    with atomic_path(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the records of a log, in order."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def start_tracker(accelerator: Accelerator, name: str, config: Mapping[str, Any], *, out: Path) -> None:
    """Start a tracker of an accelerator made with ``log_with=name``; ``off`` starts none.

    Raises
    ------
    ImportError
        The tracker's package is not installed.
    """
    if name == "off":
        return
    require_tracker(name)
    # Without these wandb records the repository's state and the source file on its own account.
    os.environ.setdefault("WANDB_DISABLE_GIT", "true")
    os.environ.setdefault("WANDB_DISABLE_CODE", "true")
    known = {"wandb": wandb_arguments(out)}
    values = plain_json(dict(config))
    if name == "tensorboard":  # takes plain values only
        values = {
            key: value if isinstance(value, int | float | str) else str(value)
            for key, value in values.items()
        }
    accelerator.init_trackers("geneformer-grn", config=values, init_kwargs={name: known.get(name, {})})


def wandb_arguments(out: Path) -> dict[str, Any]:
    """Return the arguments of ``wandb.init``, with everything off that it sends on its own account.

    Parameters
    ----------
    out
        Folder of the run; wandb's own files go there.
    """
    settings = {
        "console": "off",  # else all that is printed, with file names
        "save_code": False,
        "disable_code": True,
        "disable_git": True,
        "disable_job_creation": True,
        "host": "",  # else the machine's name
        "x_disable_meta": True,  # command line, user, host and folders
        "x_disable_machine_info": True,
        "x_disable_stats": True,
        "x_save_requirements": False,
    }
    return {"dir": str(out), "settings": settings}


def require_tracker(name: str) -> None:
    """Raise unless the tracker `name` can be imported.

    Raises
    ------
    ImportError
        It cannot; the message says how to install it.
    """
    if name != "off" and importlib.util.find_spec(name) is None:
        raise ImportError(
            f"run.tracker is {name!r}, which is not installed: pip install 'geneformer-grn[{name}]', "
            "or set run.tracker=off (the log is written to log.jsonl in any case)"
        )
