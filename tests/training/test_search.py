"""The search for settings: ranges, resuming, pruning, what a kill leaves; the objective is known."""

import pytest
from pydantic import ValidationError

from geneformer_grn.training.search import SearchRange, SearchSection, open_study, run_trials

optuna = pytest.importorskip("optuna", reason="optuna is not installed (extra search)")
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def section(**changes) -> SearchSection:
    space = {
        "optim.lr": {"low": 1e-4, "high": 1.0, "log": True},
        "model.pooling": {"choices": ["cls", "mean"]},
    }
    return SearchSection.model_validate({"space": space, "trials": 12} | changes)


def score(settings) -> float:
    return -abs(settings["optim.lr"] - 0.1) - (settings["model.pooling"] == "cls")


@pytest.mark.parametrize("sampler", ["bayesian", "random"])
def test_a_search_finds_better_settings_and_ends(tmp_path, sampler):
    study = open_study(section(sampler=sampler), tmp_path / "journal", seed=0)
    run_trials(study, section(sampler=sampler), lambda settings, report: score(settings))
    assert len(study.trials) == 12
    assert study.best_params["model.pooling"] == "mean"
    assert study.best_value == max(score(trial.params) for trial in study.trials)


def test_a_grid_tries_each_setting_once(tmp_path):
    space = {"optim.epochs": {"low": 2, "high": 6, "step": 2}, "model.pooling": {"choices": ["cls", "mean"]}}
    grid = SearchSection.model_validate({"space": space, "sampler": "grid", "trials": 100})
    assert grid.space["optim.epochs"].grid == [2, 4, 6]
    study = open_study(grid, tmp_path / "journal", seed=0)
    run_trials(study, grid, lambda settings, report: settings["optim.epochs"])
    tried = [tuple(trial.params.values()) for trial in study.trials]
    assert sorted(tried) == sorted((epochs, pool) for epochs in (2, 4, 6) for pool in ("cls", "mean"))


def test_a_repeated_call_does_what_is_missing_with_other_draws(tmp_path):
    few = section(trials=3, sampler="random")
    run_trials(open_study(few, tmp_path / "journal", seed=0), few, lambda settings, report: score(settings))
    more = section(trials=6, sampler="random")
    study = open_study(more, tmp_path / "journal", seed=0)
    run_trials(study, more, lambda settings, report: score(settings))
    assert len(study.trials) == 6
    assert len({trial.params["optim.lr"] for trial in study.trials}) == 6
    run_trials(study, more, lambda settings, report: pytest.fail("nothing was missing"))


def test_a_trial_that_a_kill_left_is_taken_up_again(tmp_path):
    study = open_study(section(trials=2), tmp_path / "journal", seed=0)

    def killed(settings, report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trials(study, section(trials=2), killed)
    left = study.ask()  # as a process that was killed leaves it
    left.suggest_float("optim.lr", 1e-4, 1.0, log=True)
    left.suggest_categorical("model.pooling", ("cls", "mean"))
    again = open_study(section(trials=2), tmp_path / "journal", seed=0, recover=True)
    run_trials(again, section(trials=2), lambda settings, report: score(settings))
    complete = [trial for trial in again.trials if trial.state.name == "COMPLETE"]
    assert len(complete) == 2
    assert left.params in [trial.params for trial in complete]


def test_trials_that_lag_are_cut_short(tmp_path):
    chosen = section(trials=10, pruner="median")
    epochs = []

    def objective(settings, report):
        lags = len(epochs) >= 5
        epochs.append(0)
        for epoch in range(1, 6):
            epochs[-1] = epoch
            report(epoch, 0.0 if lags else 1.0)
        return 0.0 if lags else 1.0

    study = open_study(chosen, tmp_path / "journal", seed=0)
    run_trials(study, chosen, objective)
    assert epochs[:5] == [5] * 5
    assert max(epochs[5:]) < 5
    assert {trial.state.name for trial in study.trials[5:]} == {"PRUNED"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "either choices, or low and high"),
        ({"choices": [1], "low": 0, "high": 1}, "either choices, or low and high"),
        ({"low": 2, "high": 1}, "must be below"),
        ({"low": 0, "high": 1, "log": True}, "begins above 0"),
    ],
)
def test_ranges_that_mean_nothing_are_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        SearchRange.model_validate(values)


def test_a_grid_without_end_is_refused():
    with pytest.raises(ValidationError, match=r"optim\.lr has neither"):
        section(sampler="grid")
