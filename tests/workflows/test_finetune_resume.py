from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from geneformer_grn.workflows.finetune import run_finetuning


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "rows").iterdir()}


@pytest.fixture
def half(finetune_run, tmp_path) -> Path:
    """A copy of the finished run, to be gone on with."""
    folder = tmp_path / "half"
    shutil.copytree(finetune_run[0], folder)
    return folder


def test_finished_rows_are_not_computed_again(finetune_config, finetune_keys, finetune_run, half):
    for name in ("results.json", "rows/fold1.majority.npz", "rows/shot2-draw2.finetuned.npz"):
        (half / name).unlink()
    kept = times(half)
    with pytest.raises(FileExistsError, match="--resume"):
        run_finetuning(finetune_config(), half)
    again = run_finetuning(finetune_config(), half, resume=True)
    first, second = (
        json.loads((folder / "results.json").read_text())["tasks"] for folder in (finetune_run[0], half)
    )
    for tasks in (first, second):
        for card in tasks["cell_type"]["methods"].values():
            del card["seconds"]
    assert first == second, "the same seed gives the same figures, resumed or not"
    assert len(again.results["tasks"]["cell_type"]["few_shot"]) == 6
    now = times(half)
    assert len(now) == len(kept) + 2
    assert all(now[name] == when for name, when in kept.items())
    with pytest.raises(ValueError, match=r"optim.lr is"):
        run_finetuning(finetune_config(optim=finetune_keys["optim"] | {"lr": 0.5}), half, resume=True)


def test_baselines_labels_and_modes_of_the_curve_can_be_added(finetune_config, finetune_keys, half):
    """A curve holds a line for each mode, named so; what was done stays as it is."""
    kept = times(half)
    more = finetune_keys["evaluation"] | {
        "baselines": ["majority", "hvg_pca_logistic", "l1_logistic"], "few_shot": [1, 2],
        "few_shot_modes": ["frozen", "full"], "few_shot_baselines": ["majority", "linear_probe"],
    }  # fmt: skip
    results = run_finetuning(finetune_config(evaluation=more), half, resume=True).results
    now = times(half)
    assert all(now[name] == when for name, when in kept.items())
    task = results["tasks"]["cell_type"]
    assert set(task["methods"]) == {"finetuned", "majority", "hvg_pca_logistic", "l1_logistic"}
    curve = {(row["labels"], row["method"]) for row in task["few_shot"]}
    methods = ("finetuned", "finetuned_frozen", "majority", "linear_probe")
    assert curve == {(labels, method) for labels in (1, 2) for method in methods}
    table = pd.read_csv(half / "table.tsv", sep="\t", dtype={"labels": str})
    of_two = table[table["labels"] == "2"].set_index("method")["title"]
    assert of_two["finetuned"].endswith("(full)")
    assert of_two["finetuned_frozen"].endswith("(frozen)")
    whole, few = task["goals"]
    assert "mode" not in whole["text"]
    assert "2 labels a class (mode frozen)" in few["text"], "goals judge the first of the modes"
    frozen = [row["auroc"] for row in task["few_shot"] if row["method"] == "finetuned_frozen"]
    assert few["value"] == pytest.approx(np.mean(frozen[2:]))
    assert few["baseline"] in {"majority", "linear_probe"}, "another mode of the model is no baseline"


def test_rows_of_another_model_are_dropped_and_those_of_counts_kept(
    finetune_config, finetune_keys, half, tiny_checkpoint, tmp_path
):
    """A checkpoint that was trained anew keeps its name."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "again" / tiny_checkpoint.name
    shutil.copytree(tiny_checkpoint, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(key for key in weights if key.endswith("layer.0.output.dense.weight"))
    save_file(weights | {name: 1.5 * weights[name]}, folder / "model.safetensors", metadata={"format": "pt"})
    kept = times(half)
    config = finetune_config(model=finetune_keys["model"] | {"checkpoint": str(folder)})
    results = run_finetuning(config, half, resume=True).results
    now = times(half)
    assert now.keys() == kept.keys()
    changed = {name for name, when in now.items() if kept[name] != when}
    assert changed == {name for name in kept if ".finetuned." in name}
    before = json.loads((half / "run.json").read_text())["rests_on"]["model"]
    assert results["model"]["encoder_before"] == before


def test_other_labels_of_the_same_table_are_refused(finetune_config, tiny_vocabulary, tmp_path):
    table = tmp_path / "genes.tsv"
    genes = tiny_vocabulary.ensembl_ids[5:65]
    pd.DataFrame({"gene": genes, "kind": ["a", "b"] * 30}).to_csv(table, sep="\t", index=False)
    config = finetune_config(
        tasks=[{"name": "kind", "level": "gene", "table": "genes.tsv"}], split={"by": "random"},
        optim={"epochs": 1, "min_steps": 0}, evaluation={"baselines": ["majority"], "bootstrap": 0},
    )  # fmt: skip
    run_finetuning(config, tmp_path / "out", files=[table])
    pd.DataFrame({"gene": genes, "kind": ["a"] * 30 + ["b"] * 30}).to_csv(table, sep="\t", index=False)
    with pytest.raises(ValueError, match="out holds a run with other labels; choose another --out"):
        run_finetuning(config, tmp_path / "out", files=[table], resume=True)
