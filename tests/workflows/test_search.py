"""A search over a real fine-tuning run: judged by validation alone, resumable, side by side in processes."""

import json

import numpy as np
import pandas as pd
import pytest

from geneformer_grn.training.finetune_config import FinetuneConfig
from geneformer_grn.workflows.search import changed, run_search

pytest.importorskip("optuna", reason="optuna is not installed (extra search)")


@pytest.fixture(scope="module")
def small(tiny_adata, tiny_checkpoint, tmp_path_factory) -> dict:
    adata = tiny_adata.copy()
    adata.obs["donor"] = [f"d{number % 8}" for number in range(adata.n_obs)]
    path = tmp_path_factory.mktemp("labelled") / "cells.h5ad"
    adata.write_h5ad(path)
    return {
        "name": "small",
        "data": {"files": [str(path)]},
        "model": {"checkpoint": str(tiny_checkpoint), "mode": "frozen", "heads": "steps"},
        "optim": {"epochs": 2, "min_steps": 0, "token_budget": 512},
        "tasks": [{"name": "cell_type"}],
        "split": {"by": "donor"},
        "search": {"trials": 2, "space": {"optim.head_lr": {"low": 1e-4, "high": 1e-1, "log": True}}},
    }


def test_what_was_tried_is_written_and_a_repeated_call_goes_on(small, tmp_path):
    facts = run_search(FinetuneConfig.model_validate(small), tmp_path / "search")
    table = pd.read_csv(tmp_path / "search" / "trials.tsv", sep="\t")
    assert len(table) == 2
    assert facts["score"] == pytest.approx(table["score"].max())
    best = table.loc[table["score"].idxmax(), "optim.head_lr"]
    assert facts["best"]["optim.head_lr"] == pytest.approx(best)
    more = small | {"search": small["search"] | {"trials": 3}}
    run_search(FinetuneConfig.model_validate(more), tmp_path / "search")
    longer = pd.read_csv(tmp_path / "search" / "trials.tsv", sep="\t")
    assert longer["optim.head_lr"].tolist()[:2] == table["optim.head_lr"].tolist()
    assert len(longer) == 3
    assert json.loads((tmp_path / "search" / "search.json").read_text())["n_complete"] == 3
    other = small | {"optim": small["optim"] | {"epochs": 3}}
    with pytest.raises(ValueError, match="another config"):
        run_search(FinetuneConfig.model_validate(other), tmp_path / "search")


def test_what_fitted_heads_do_not_read_is_not_searched(small, tmp_path):
    fitted = small | {"model": small["model"] | {"heads": "auto"}}
    with pytest.raises(ValueError, match=r"take no steps: optim\.head_lr would change nothing"):
        run_search(FinetuneConfig.model_validate(fitted), tmp_path / "search")
    assert not (tmp_path / "search").exists()
    weighed = {"trials": 1, "space": {"optim.class_weights": {"choices": ["none", "balanced"]}}}
    facts = run_search(FinetuneConfig.model_validate(fitted | {"search": weighed}), tmp_path / "search")
    assert set(facts["best"]) == {"optim.class_weights"}


def test_labels_of_the_test_part_do_not_matter(small, tmp_path, monkeypatch):
    from geneformer_grn.workflows import search

    first = run_search(FinetuneConfig.model_validate(small), tmp_path / "first")
    kept = search.open_inputs

    def scrambled(config, files):
        inputs = kept(config, files)
        for task in inputs.tasks:
            test = inputs.splits[0].test
            task.values[test] = np.random.default_rng(0).permutation(task.values[test])
        return inputs

    monkeypatch.setattr(search, "open_inputs", scrambled)
    second = run_search(FinetuneConfig.model_validate(small), tmp_path / "second")
    assert first["best"] == second["best"]
    assert first["score"] == second["score"]


@pytest.mark.slow
def test_two_processes_work_at_one_search(small, tmp_path):
    asked = small | {"search": small["search"] | {"trials": 4}}
    facts = run_search(FinetuneConfig.model_validate(asked), tmp_path / "search", processes=2)
    assert facts["n_complete"] + facts["n_pruned"] in {4, 5}  # each process may end the trial it is at


@pytest.mark.parametrize("key", ["optim.nothing", "data.n_cells", "nowhere.lr", "optim"])
def test_keys_that_cannot_be_searched_are_named(small, key):
    with pytest.raises(ValueError, match="no key of model or optim"):
        changed(FinetuneConfig.model_validate(small), {key: 1})


def test_a_config_without_a_search_says_what_is_missing(small, tmp_path):
    config = FinetuneConfig.model_validate({key: value for key, value in small.items() if key != "search"})
    with pytest.raises(ValueError, match="no section search"):
        run_search(config, tmp_path / "search")
