"""Searching settings of a fine-tuning run by its validation part; the test part is not looked at."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geneformer_grn._runtime import atomic_path, library_versions, logger, n_cores, write_json
from geneformer_grn.training.finetune_config import FinetuneConfig, resolved
from geneformer_grn.training.search import Report, SearchSection, open_study, run_trials
from geneformer_grn.workflows.finetune_inputs import open_inputs

if TYPE_CHECKING:
    import optuna

JOURNAL, RECORD = "journal.log", "search.json"
_OF_FITS = frozenset(
    f"optim.{name}" for name in ("class_weights", "sampling", "loss", "gamma", "stop_on", "precision")
)
"""What fitted heads on a frozen encoder depend on, besides the keys of model."""


def run_search(
    config: FinetuneConfig, out: Path, *, files: Sequence[Path] = (), processes: int = 1
) -> dict[str, Any]:
    """Try settings until the config's ``search.trials`` are done, and write what was found.

    Parameters
    ----------
    config
        With a section ``search``.
    out
        Folder: ``journal.log`` (what a repeated call goes on from), ``trials.tsv``, ``search.json`` (config,
        best settings and their validation score).
    files
        Where files that the config names lie.
    processes
        Processes that work side by side, each with its share of the cores.

    Returns
    -------
    dict
        ``best`` (key -> value), ``score``, ``n_complete``, ``n_pruned``, ``asked_for`` (for the CLI).

    Raises
    ------
    FileNotFoundError, ValueError
        There is nothing to search, a key is unknown, or `out` holds a search of another config.
    ModuleNotFoundError
        optuna is not installed.

    Examples
    --------
    >>> run_search(read_finetune_config("search.toml"), Path("search"))["best"]  # doctest: +SKIP
    {'optim.lr': 0.00041}
    """
    section = config.search
    if section is None:
        raise ValueError("the config has no section search: say in search.space which keys to try")
    for key, values in section.space.items():
        changed(config, {key: values.grid[0] if values.grid else values.low})
    _require_effect(config, section)
    out.mkdir(parents=True, exist_ok=True)
    _require_same_search(out, config)
    study = open_study(section, out / JOURNAL, seed=config.run.seed, recover=True)
    if processes == 1:
        _work(config, out, files, 0)
    else:
        _work_together(config, out, files, processes)
    return _written(study, config, out)


def _require_effect(config: FinetuneConfig, section: SearchSection) -> None:
    """Refuse a search among settings that change nothing: fitted heads on a frozen encoder have no steps."""
    moves = any(key.startswith("model.") or key in _OF_FITS for key in section.space)
    if config.model.mode == "frozen" and config.model.fits_heads and not moves:
        raise ValueError(
            f"heads on a frozen encoder are fitted and take no steps: {', '.join(section.space)} would "
            "change nothing; set model.heads to 'steps', or model.mode to another one"
        )


def changed(config: FinetuneConfig, settings: Mapping[str, Any]) -> FinetuneConfig:
    """Return the config with some keys set, checked again.

    Raises
    ------
    ValueError
        There is no such key, or the value does not fit.
    """
    content = config.model_dump()
    for key, value in settings.items():
        section, _, name = key.partition(".")
        if section not in {"model", "optim"} or name not in content[section]:
            raise ValueError(f"search.space names {key!r}, which is no key of model or optim")
        content[section][name] = value
    return FinetuneConfig.model_validate(content)


def _require_same_search(out: Path, config: FinetuneConfig) -> None:
    record = out / RECORD
    asked = _identity(config)
    if record.is_file() and json.loads(record.read_text(encoding="utf-8"))["config"] != asked:
        raise ValueError(f"{out.name} holds a search with another config; choose another --out")
    if not record.is_file():
        write_json(record, {"config": asked, "versions": library_versions()})


def _identity(config: FinetuneConfig) -> dict[str, Any]:
    """Return the config as far as it decides what a trial gives; more trials may be asked for later."""
    content = resolved(config)
    content["search"].pop("trials")
    content.pop("evaluation")
    for key in ("threads", "device"):
        content["run"].pop(key)
    return dict(json.loads(json.dumps(content)))


def _work_together(config: FinetuneConfig, out: Path, files: Sequence[Path], processes: int) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_work_alone, args=(config, out, list(files), number, processes))
        for number in range(processes)
    ]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:  # of an interrupted search: trials that run are run again by the next call
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
    if failed := [worker.exitcode for worker in workers if worker.exitcode]:
        raise RuntimeError(f"{len(failed)} of {processes} processes failed (exit code {failed[0]})")


def _work_alone(config: FinetuneConfig, out: Path, files: list[Path], number: int, processes: int) -> None:
    import torch

    torch.set_num_threads(max(1, n_cores() // processes))
    _work(config, out, files, number)


def _work(config: FinetuneConfig, out: Path, files: Sequence[Path], number: int) -> None:
    """Run trials in this process."""
    from geneformer_grn.model.encoder import load_encoder
    from geneformer_grn.training.finetune import finetune

    section: SearchSection = config.search  # type: ignore[assignment]  # checked by the caller
    inputs = open_inputs(config, files)
    if section.fold > len(inputs.splits):
        raise ValueError(f"search.fold is {section.fold}, and the split has {len(inputs.splits)}")
    split = inputs.splits[section.fold - 1]
    weights = {task.name: task.weight for task in config.tasks}

    def objective(settings: Mapping[str, Any], report: Report) -> float:
        trial = changed(config, settings)
        encoder = load_encoder(
            trial.model.checkpoint, device=config.run.device, precision=trial.optim.precision
        )
        scores: list[float] = []

        def told(row: Mapping[str, Any]) -> None:
            scores.append(float(np.nan_to_num(row["score"], nan=-1.0)))
            report(int(row["epoch"]), max(scores))

        finetune(
            encoder, inputs.ranked, inputs.tasks, {config.level: split}, trial.settings(),
            seed=config.run.seed, weights=weights, told=told,
        )  # fmt: skip
        return max(scores)

    study = open_study(section, out / JOURNAL, seed=config.run.seed + 7919 * number)
    run_trials(study, section, objective)


def _written(study: optuna.Study, config: FinetuneConfig, out: Path) -> dict[str, Any]:
    """Write the trials and the best of them; return the facts."""
    done = [trial for trial in study.trials if trial.state.name in {"COMPLETE", "PRUNED"}]
    rows = [
        {
            "trial": trial.number, "state": trial.state.name.lower(), "score": trial.value,
            "last_epoch": max(trial.intermediate_values, default=0), **trial.params,
        }
        for trial in done
    ]  # fmt: skip
    with atomic_path(out / "trials.tsv") as temporary:
        pd.DataFrame(rows).to_csv(temporary, sep="\t", index=False)
    n_complete = sum(trial.state.name == "COMPLETE" for trial in done)
    best = study.best_trial
    facts = {
        "best": dict(best.params), "score": best.value, "n_complete": n_complete,
        "n_pruned": len(done) - n_complete,
        "asked_for": " ".join(f"--set {key}={json.dumps(value)}" for key, value in best.params.items()),
    }  # fmt: skip
    write_json(out / RECORD, {"config": _identity(config), "versions": library_versions(), **facts})
    logger.info("wrote %s", out)
    return facts
