"""Fine-tuning: an encoder, labelled cells or genes and a split in; the best model of the validation part out.

The caller's encoder is never changed, and the one that learns is shown to be the one that was given. The loop
itself, one for every mode, is in `geneformer_grn.training.finetune_loop`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from geneformer_grn._runtime import logger
from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.model.encoder import Encoder
from geneformer_grn.model.fingerprint import encoder_fingerprint
from geneformer_grn.model.heads import Finetuned, TaskHead
from geneformer_grn.training.finetune_lessons import make_lessons
from geneformer_grn.training.finetune_loop import FinetuneRun, start_run, train
from geneformer_grn.training.finetune_network import encoder_to_train, finished, original_model
from geneformer_grn.training.finetune_processes import Processes
from geneformer_grn.training.finetune_settings import FinetuneSettings
from geneformer_grn.training.finetune_state import load_progress, run_facts
from geneformer_grn.training.supervision import Level, Split, Task


@dataclass(frozen=True, eq=False)
class FinetuneResult:
    """What a run gives.

    Parameters
    ----------
    model
        The best model, in eval mode; regressions in the unit of their values.
    history
        A row for each validation: ``epoch``, ``step``, ``cells`` (seen in that epoch), ``loss`` (training),
        ``lr``, ``score``, ``validation_loss``, and both by task. Row 0 is of fitted heads, where they are,
        with ``C`` and ``scale`` of each task.
    best_epoch
        Which epoch the model is of, counted from 1; 0: fitted heads on the encoder as it was.
    fingerprint_before, fingerprint_after
        sha256 of the encoder's weights when training began and as returned; without the layers above
        ``encoder_layer``.
    n_train_units
        Labelled training units of each task, those in the last incomplete batch counted.
    seconds
        Wall-clock time of this call.
    """

    model: Finetuned
    history: list[dict[str, Any]]
    best_epoch: int
    fingerprint_before: str
    fingerprint_after: str
    n_train_units: dict[str, int]
    seconds: float


def finetune(
    encoder: Encoder,
    ranked: RankedCells,
    tasks: Sequence[Task],
    splits: Mapping[Level, Split],
    settings: FinetuneSettings | None = None,
    *,
    out: Path | str | None = None,
    seed: int = 0,
    resume: bool = False,
    weights: Mapping[str, float] | None = None,
    told: Callable[[Mapping[str, Any]], None] | None = None,
) -> FinetuneResult:
    """Teach an encoder with heads the training part, and return the model best on the validation part.

    Parameters
    ----------
    encoder
        Pretrained; not changed.
    ranked
        Cells ranked with its vocabulary, in the order of the cell tasks.
    tasks
        What to learn, one or more at once; a unit may lack the label of a task.
    splits
        For each level. The test part is not looked at. Genes are learnt from training cells where there is
        a split of cells, else from all.
    settings
        Mode, rates, length.
    out
        Folder to keep progress in, for `resume`; None: nothing is written.
    seed
        Of first weights, order and dropout.
    resume
        Go on from what `out` holds; begin where it holds nothing.
    weights
        Fixed weight of a task in the loss, by name; 1 where it is not named.
    told
        Called with each row of the history as it comes; an error it raises ends the run.

    Returns
    -------
    FinetuneResult
        The same, bit for bit, for the same seed on the same CPU.

    Raises
    ------
    ValueError
        Tasks, splits and cells do not fit, or a run would be resumed with other settings or data.
    FileExistsError
        `out` holds a run and `resume` is False.
    ModuleNotFoundError
        A mode needs peft or bitsandbytes.

    Examples
    --------
    >>> result = finetune(load_encoder("mini"), ranked, [task], {"cell": split})  # doctest: +SKIP
    >>> result.model.predict(ranked)["cell_type"].shape  # doctest: +SKIP
    (559, 8)
    """
    started = time.perf_counter()
    settings = settings or FinetuneSettings()
    folder = None if out is None else Path(out)
    processes = Processes.started(encoder.device)
    lessons = make_lessons(ranked, tasks, splits, vocabulary=encoder.vocabulary, settings=settings)
    encoder = encoder_to_train(encoder, settings.model)
    names = {task.name for task in tasks}
    if unknown := sorted(set(weights or {}) - names):
        raise ValueError(f"there is no task {unknown[0]!r} to weigh; there are {', '.join(sorted(names))}")
    given = encoder_fingerprint(encoder.model)
    facts = run_facts(given, lessons, splits, settings=settings, seed=seed, weights=weights)
    done = load_progress(folder, facts, resume=resume)

    run = start_run(
        encoder, lessons, splits, settings=settings, processes=processes, seed=seed, weights=weights
    )
    before = encoder_fingerprint(original_model(run.network.encoder))
    if before != given:
        raise RuntimeError(f"the encoder to train ({before[:12]}) is not the one given ({given[:12]})")
    logger.info("%s, mode %s: encoder %s before", encoder.name, settings.model.mode, before[:12])
    run.told = told
    if done is not None:
        run.progress = done.restore(run.network, run.optimizer)
    train(run, folder, facts)
    model = _best_model(run)
    after = encoder_fingerprint(model.encoder.model)
    best = run.progress.best_epoch
    logger.info("encoder %s after; %s", after[:12], f"best epoch {best}" if best else "heads as fitted")
    return FinetuneResult(
        model=model,
        history=run.progress.history,
        best_epoch=run.progress.best_epoch,
        fingerprint_before=before,
        fingerprint_after=after,
        n_train_units={lesson.spec.name: len(lesson.units) for lesson in lessons.lessons},
        seconds=time.perf_counter() - started,
    )


def _best_model(run: FinetuneRun) -> Finetuned:
    """Return the best model so far, its heads folded and in the unit of the values."""
    network, best = run.network, run.progress.best
    if best is not None:
        network.load_state_dict(best, strict=False)
    for head, lesson in zip(network.heads, run.lessons.lessons, strict=True):
        cast("TaskHead", head).fold(mean=lesson.mean, deviation=lesson.deviation)
    network.eval()
    longest = run.lessons.max_length
    limit = None if longest == run.lessons.vocabulary.max_length else longest
    return Finetuned(
        finished(network.encoder), network.heads.requires_grad_(requires_grad=False), network.specs, limit
    )
