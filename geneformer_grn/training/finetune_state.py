"""Progress of a fine-tuning run, kept after every validation: what it takes to go on to the same numbers.

One file, written under a temporary name and renamed, and read without running pickled code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geneformer_grn._runtime import atomic_path, plain_json
from geneformer_grn.training.finetune_data import Lessons
from geneformer_grn.training.finetune_network import Network
from geneformer_grn.training.finetune_settings import FinetuneOptim, FinetuneSettings
from geneformer_grn.training.finetune_validation import Validation
from geneformer_grn.training.supervision import Level, Split

FILE = "progress.pt"


@dataclass(eq=False)
class Progress:
    """How far a run has come, and the best it found.

    Parameters
    ----------
    epoch, step
        Epochs and updates made.
    history
        See `FinetuneResult`.
    best
        Weights of the best validation; None before the first.
    best_epoch
        Its epoch, counted from 1; 0: fitted heads.
    best_figures
        What makes it the best, compared in order; larger is better.
    stale
        Validations since.
    ended
        Whether the run has stopped early.
    """

    epoch: int = 0
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Tensor] | None = None
    best_epoch: int = 0
    best_figures: tuple[float, ...] = ()
    stale: int = 0
    ended: bool = False

    def take(
        self, found: Validation, weights: Callable[[], dict[str, Tensor]], settings: FinetuneOptim
    ) -> None:
        """Note a validation: keep `weights` if it is the best, end where none was for ``patience``.

        Without a validation part the last weights are the best.
        """
        figures: tuple[float, ...] = (-found.loss,) if np.isfinite(found.loss) else ()
        if settings.stop_on == "score" and np.isfinite(found.score):
            figures = (found.score, *figures)
        if self.best is None or not figures or figures > self.best_figures:
            self.best, self.best_figures = weights(), figures
            self.best_epoch, self.stale = self.epoch, 0
            return
        self.stale += 1
        self.ended = settings.patience is not None and self.stale >= settings.patience


@dataclass(frozen=True, eq=False)
class Stored:
    """Progress as it was read, to be put into a network and its optimizer."""

    progress: Progress
    weights: dict[str, Tensor]
    moments: dict[Any, Any]

    def restore(self, network: Network, optimizer: torch.optim.Optimizer) -> Progress:
        """Put weights and moments back; return how far the run had come."""
        network.load_state_dict(self.weights, strict=False)
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": self.moments, "param_groups": groups})
        return self.progress


def snapshot(network: Network) -> dict[str, Tensor]:
    """Return a copy, on the CPU, of all weights that learn and of the heads' standardisation."""
    kept: dict[str, Tensor] = {
        name: weight for name, weight in network.named_parameters() if weight.requires_grad
    }
    kept |= {name: buffer for name, buffer in network.named_buffers() if name.startswith("heads.")}
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in kept.items()}


def run_facts(
    fingerprint: str,
    lessons: Lessons,
    splits: Mapping[Level, Split],
    *,
    settings: FinetuneSettings,
    seed: int,
    weights: Mapping[str, float] | None,
) -> dict[str, Any]:
    """Return what must not change when a run is resumed: encoder, cells, labels, splits, settings, seed."""
    facts: dict[str, Any] = {
        f"{section}.{key}": value
        for section, keys in settings.model_dump().items()
        for key, value in keys.items()
    }
    facts.pop("model.checkpoint")  # told by the fingerprint
    facts |= {"seed": seed, "encoder": fingerprint, "weights": dict(weights or {})}
    facts["cells"] = _digest(lessons.ranked.tokens, lessons.ranked.offsets)
    for lesson in lessons.lessons:
        facts[f"labels of {lesson.spec.name}"] = _digest(lesson.task.values)
    for level, split in splits.items():
        facts[f"split of {level}s"] = _digest(split.train, split.validation)
    return dict(plain_json(facts))


def save_progress(
    out: Path,
    progress: Progress,
    network: Network,
    optimizer: torch.optim.Optimizer,
    *,
    facts: Mapping[str, Any],
) -> None:
    """Write ``progress.pt`` into `out`, whole or not at all."""
    content = {
        "facts": dict(facts),
        "weights": snapshot(network),
        "moments": optimizer.state_dict()["state"],
        "progress": vars(progress) | {"best_figures": list(progress.best_figures)},
    }
    with atomic_path(out / FILE) as temporary:
        torch.save(content, temporary)


def load_progress(out: Path | None, facts: Mapping[str, Any], *, resume: bool) -> Stored | None:
    """Return the progress that `out` holds; None where it holds none.

    Raises
    ------
    FileExistsError
        It holds some, and `resume` is False.
    ValueError
        It belongs to a run on other data or with other settings, each of which is named, or is damaged.
    """
    if out is None or not (out / FILE).is_file():
        return None
    if not resume:
        raise FileExistsError(f"{out} already holds a run; pass --resume to go on with it, or another --out")
    try:
        content = torch.load(out / FILE, map_location="cpu", weights_only=True)
        stored = content["facts"]
        progress = Progress(**content["progress"])
    # A damaged file fails in many ways inside torch, with no common type.
    except Exception as error:
        raise ValueError(
            f"{out / FILE} cannot be read ({error}); start a new run in another folder"
        ) from error
    changed = [
        f"{key} was {stored.get(key)!r}, is {facts.get(key)!r}"
        for key in sorted({*stored, *facts})
        if stored.get(key) != facts.get(key)
    ]
    if changed:
        raise ValueError(
            f"this run cannot be resumed: {'; '.join(changed)}. Set these back, or start a new run elsewhere"
        )
    progress.best_figures = tuple(progress.best_figures)
    return Stored(progress, content["weights"], content["moments"])


def _digest(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
