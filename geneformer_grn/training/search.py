"""Search for settings: trials proposed by optuna, cut short where they lag, kept in a file.

The file is optuna's journal. It outlives a kill, so that a repeated call does what is missing, and several
processes, on one machine or a shared disk, work at one search.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    import optuna

Report = Callable[[int, float], None]
"""``(epoch, score)``: tells how a trial does, and raises where it is not worth going on."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SearchRange(_Section):
    """Values that one key may take: `choices`, or numbers from `low` to `high`."""

    choices: tuple[str | int | float | bool, ...] = ()
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    step: int | float | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> SearchRange:
        bounded = self.low is not None and self.high is not None
        if bool(self.choices) == bounded:
            raise ValueError("give either choices, or low and high")
        if bounded and not self.low < self.high:  # type: ignore[operator]  # both are numbers here
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        if bounded and self.log and (self.low <= 0 or self.step is not None):  # type: ignore[operator]
            raise ValueError("a logarithmic range begins above 0 and has no step")
        return self

    @property
    def grid(self) -> list[str | int | float | bool]:
        """The values a grid goes through; none where there is no end of them."""
        if self.choices:
            return list(self.choices)
        if self.step is None:
            return []
        low, high = self.low or 0, self.high or 0
        return [low + place * self.step for place in range(int((high - low) / self.step + 1e-9) + 1)]


class SearchSection(_Section):
    """What is searched, and how."""

    space: dict[str, SearchRange] = Field(min_length=1, description="config key -> values, such as optim.lr")
    trials: int = Field(default=20, ge=1, description="at most; a grid ends by itself")
    sampler: Literal["bayesian", "random", "grid"] = "bayesian"
    pruner: Literal["median", "halving", "none"] = "median"
    fold: int = Field(default=1, ge=1, description="fold whose validation part judges, counted from 1")

    @model_validator(mode="after")
    def _grid_ends(self) -> SearchSection:
        if self.sampler == "grid" and (endless := [key for key, one in self.space.items() if not one.grid]):
            raise ValueError(f"a grid needs choices or a step: {endless[0]} has neither")
        return self


def open_study(section: SearchSection, journal: Path, *, seed: int, recover: bool = False) -> optuna.Study:
    """Return the study that a journal holds, a new one where there is none.

    Parameters
    ----------
    section
        Sampler and pruner.
    journal
        File; its folder exists.
    seed
        Of the sampler, together with the number of trials there are.
    recover
        Take up trials that a killed process left; only where no other process is at work.

    Raises
    ------
    ModuleNotFoundError
        optuna is not installed.
    """
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'a search for settings needs optuna, which is not installed: pip install "geneformer-grn[search]"'
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
    study = optuna.create_study(
        study_name="search", storage=storage, direction="maximize", load_if_exists=True,
        pruner=_pruner(section),
    )  # fmt: skip
    # a sampler that begins anew with the same seed would propose the same trials again
    study.sampler = _sampler(section, seed + 1009 * len(study.trials))
    if recover:
        for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            if trial.params:
                study.enqueue_trial(trial.params)
    return study


def run_trials(
    study: optuna.Study, section: SearchSection, objective: Callable[[Mapping[str, Any], Report], float]
) -> None:
    """Run trials until the search holds as many as it shall, those of other processes counted.

    Parameters
    ----------
    study
        From `open_study`.
    section
        The space and the number of trials.
    objective
        ``(settings, report) -> score``, larger is better; an error in it ends the search.
    """
    import optuna

    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)

    def judged(trial: optuna.Trial) -> float:
        def report(epoch: int, score: float) -> None:
            trial.report(score, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        return objective({key: _suggested(trial, key, one) for key, one in section.space.items()}, report)

    if len(study.get_trials(deepcopy=False, states=ended)) >= section.trials:
        return
    stop = optuna.study.MaxTrialsCallback(section.trials, states=ended)
    study.optimize(judged, callbacks=[stop])


def _suggested(trial: optuna.Trial, key: str, values: SearchRange) -> Any:
    if values.choices:
        return trial.suggest_categorical(key, values.choices)
    low, high = values.low, values.high
    if isinstance(low, int) and isinstance(high, int) and isinstance(values.step, int | None):
        return trial.suggest_int(key, low, high, step=values.step or 1, log=values.log)
    return trial.suggest_float(key, float(low or 0), float(high or 0), step=values.step, log=values.log)


def _sampler(section: SearchSection, seed: int) -> optuna.samplers.BaseSampler:
    import optuna

    if section.sampler == "grid":
        return optuna.samplers.GridSampler({key: one.grid for key, one in section.space.items()}, seed=seed)
    if section.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed)


def _pruner(section: SearchSection) -> optuna.pruners.BasePruner:
    import optuna

    return {
        "median": optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
        "halving": optuna.pruners.SuccessiveHalvingPruner(),
        "none": optuna.pruners.NopPruner(),
    }[section.pruner]
