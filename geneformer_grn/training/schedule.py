"""The learning rate as a function of the step alone.

It has no state, so there is nothing of it to store in a checkpoint and nothing to restore wrongly.
"""

from __future__ import annotations

import math

from geneformer_grn.training.config import OptimSection


def learning_rate(step: int, total_steps: int, settings: OptimSection) -> float:
    """Return the learning rate of one update.

    Linear warm-up to the peak over ``warmup_steps`` updates, then down to ``final_lr_share`` of the peak:
    along half a cosine (Loshchilov & Hutter 2017), along a line, or (``wsd``: warm-up, stable, decay; Hu et
    al. 2024) staying at the peak and falling along a line in the last ``decay_share`` of the run. Of a
    ``wsd`` run the part before the decline is the same whatever the run's length, so it can be prolonged.

    Parameters
    ----------
    step
        Updates made before this one (the first update is 0).
    total_steps
        Updates of the whole run.
    settings
        Peak, warm-up and shape.
    """
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    start = settings.warmup_steps
    if settings.schedule == "wsd":
        start = max(start, total_steps - round(settings.decay_share * total_steps))
    done = min(max(0, step - start) / max(1, total_steps - start), 1.0)
    left = 0.5 * (1.0 + math.cos(math.pi * done)) if settings.schedule == "cosine" else 1.0 - done
    return settings.lr * (settings.final_lr_share + (1.0 - settings.final_lr_share) * left)
