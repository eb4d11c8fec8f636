"""Checkpoints of a run: complete or absent, never half written, and readable without running pickled code.

A checkpoint is the folder ``checkpoints/step-00000123`` with ``state.pt`` (weights and optimizer moments),
``position.json`` (step, place in the data, config) and ``model``, a plain Hugging Face folder. Dropout and
masks are drawn from the place in the data and the learning rate is a function of the step, so there is no
generator and no scheduler to store. The folder is written under a temporary name and renamed: a kill at any
moment leaves only complete ones.
"""

from __future__ import annotations

import contextlib
import errno
import json
import pickle
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from geneformer_grn._runtime import atomic_path, logger, write_json
from geneformer_grn.training.config import HARMLESS_KEYS
from geneformer_grn.training.optimizer import AnyOptimizer
from geneformer_grn.training.sharding import load_whole, spread_moments, whole

FOLDER = "checkpoints"
_FULL = {errno.ENOSPC, errno.EDQUOT}
_NEARLY_FULL = 1 << 20  # bytes
_UNREADABLE = (OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError)


@dataclass(frozen=True)
class Position:
    """How far a run has come.

    Parameters
    ----------
    step
        Updates made.
    epoch, batch
        Place in the data: `batch` packed batches of this epoch are consumed, counted over all processes, so
        that another number of processes can go on from here.
    tokens
        Tokens seen so far, over all processes.
    best_loss
        Lowest held-out loss so far; None before the first validation.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    tokens: int = 0
    best_loss: float | None = None


@dataclass(frozen=True)
class Checkpoint:
    """What was read back: `model` and `optimizer` states on the CPU, the position, and the run's facts."""

    model: dict[str, torch.Tensor]
    optimizer: dict[Any, Any]
    position: Position
    facts: dict[str, Any]


def save_training_state(
    out: Path,
    state: Mapping[str, Any],
    position: Position,
    *,
    facts: Mapping[str, Any],
    keep_last: int,
    export: Callable[[Path], None] | None = None,
) -> Path:
    """Write one checkpoint atomically and remove all but the newest `keep_last`.

    Parameters
    ----------
    out
        Folder of the run.
    state
        From `training_state`.
    position
        Where the run stands.
    facts
        The resolved config (flat) and what identifies the corpora, as `require_same_run` compares them.
    keep_last
        Number of checkpoints to keep, this one included.
    export
        Writes the model as a plain Hugging Face folder, ``model`` within the checkpoint.

    Returns
    -------
    The checkpoint's folder.

    Raises
    ------
    OSError
        The disk is full; the checkpoints before are all there.
    """
    folder = checkpoint_folder(out, position.step)
    with full_disk_told(out, saving=True), atomic_path(folder) as temporary:
        temporary.mkdir()
        torch.save(dict(state), temporary / "state.pt")
        if export is not None:
            export(temporary / "model")
        write_position(temporary, position, facts)
    for old in _folders(out)[keep_last:]:
        shutil.rmtree(old)
    return folder


def write_position(folder: Path, position: Position, facts: Mapping[str, Any]) -> None:
    """Write ``position.json`` of a checkpoint's folder."""
    write_json(folder / "position.json", {"position": asdict(position), "facts": dict(facts)})


@contextlib.contextmanager
def full_disk_told(out: Path, *, saving: bool = False) -> Iterator[None]:
    """Turn what libraries raise on a full disk, each in its own way, into one message.

    `saving` a checkpoint, a failure counts for a full disk where next to nothing is free.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        # safetensors puts the system's words into its own; torch's writer says only that it failed.
        is_full = getattr(error, "errno", None) in _FULL or "No space left" in str(error)
        if saving and not is_full:
            is_full = shutil.disk_usage(out).free < _NEARLY_FULL
        if not is_full or "--resume" in str(error):
            raise
        kept = [folder.name for folder in _folders(out)]
        what = "so the checkpoint was not written; " if saving else ""
        raise OSError(
            errno.ENOSPC,
            f"the disk of {out} is full, {what}"
            f"{f'{kept[0]} is whole' if kept else 'there is no checkpoint yet'}. "
            "Free some space and --resume",
        ) from error


def training_state(model: torch.nn.Module, optimizer: AnyOptimizer) -> dict[str, Any]:
    """Return weights and moments, whole where they are sharded; then all processes must call it.

    Parameters
    ----------
    model
        The bare model (not wrapped for several processes).
    optimizer
        Only its moments are taken; learning rate and decay come from the config at every start.
    """
    return {"model": whole(model.state_dict()), "optimizer": whole(optimizer.state_dict()["state"])}


def load_newest(out: Path) -> Checkpoint | None:
    """Read the newest checkpoint that can be read, going back over damaged ones with a warning.

    Returns
    -------
    The checkpoint, or None where there is none.
    """
    for folder in _folders(out):
        try:
            return _load(folder)
        except _UNREADABLE as error:
            logger.warning("checkpoint %s cannot be read (%s); trying the one before", folder.name, error)
    return None


def load_step(out: Path, step: int) -> Checkpoint:
    """Read the checkpoint of one step.

    Raises
    ------
    FileNotFoundError
        There is none; the message says which there are.
    ValueError
        It cannot be read.
    """
    folder = checkpoint_folder(out, step)
    if not folder.is_dir():
        there = ", ".join(f"{int(path.name.removeprefix('step-')):,}" for path in reversed(_folders(out)))
        raise FileNotFoundError(
            f"{out} holds no checkpoint of step {step:,}; steps there: {there or 'none'} (a run keeps "
            "run.keep_last of them, one every run.checkpoint_every steps)"
        )
    try:
        return _load(folder)
    except _UNREADABLE as error:
        raise ValueError(
            f"checkpoint {folder.name} of {out} cannot be read ({error}); use another"
        ) from error


def checkpoint_folder(out: Path, step: int) -> Path:
    """Return where the checkpoint of a step lies in a run's folder, there or not."""
    return out / FOLDER / f"step-{step:08d}"


def restore(checkpoint: Checkpoint, model: torch.nn.Module, optimizer: AnyOptimizer) -> None:
    """Put a checkpoint's weights and moments into a bare model and its optimizer, sharded or not."""
    load_whole(model, checkpoint.model)
    moments: dict[Any, Any] = checkpoint.optimizer
    if isinstance(optimizer, torch.optim.Optimizer):
        parameters = [weight for group in optimizer.param_groups for weight in group["params"]]
        moments = spread_moments(moments, parameters)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def require_same_run(
    saved: Mapping[str, Any], now: Mapping[str, Any], *, besides: Collection[str] = ()
) -> None:
    """Raise if a run would go on with another config or on other data than it began with.

    Parameters
    ----------
    saved, now
        Facts of the checkpoint and of the run that goes on, see `save_training_state`.
    besides
        Keys that may differ beside `HARMLESS_KEYS`.

    Raises
    ------
    ValueError
        The message names every key that changed, with both values.
    """
    changed = [
        f"{key} was {saved.get(key)!r}, is {now.get(key)!r}"
        for key in sorted({*saved, *now})
        if key not in HARMLESS_KEYS and key not in besides and saved.get(key) != now.get(key)
    ]
    if changed:
        raise ValueError(
            f"this run cannot be resumed with another config: {'; '.join(changed)}. "
            "Set these back, or start a new run in another folder."
        )


def holds_run(out: Path) -> bool:
    """Return whether `out` already holds a run, finished or not."""
    return bool(_folders(out)) or (out / "log.jsonl").exists() or (out / "model").exists()


def remove_leftovers(out: Path) -> None:
    """Remove what a killed process left under temporary names."""
    for parent in (out, out / FOLDER):
        for leftover in parent.glob(".geneformer-grn-*"):
            shutil.rmtree(leftover, ignore_errors=True)


def _load(folder: Path) -> Checkpoint:
    content = json.loads((folder / "position.json").read_text(encoding="utf-8"))
    state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    return Checkpoint(state["model"], state["optimizer"], Position(**content["position"]), content["facts"])


def _folders(out: Path) -> list[Path]:
    """Return the complete checkpoint folders, newest first."""
    return sorted((out / FOLDER).glob("step-*"), reverse=True)
