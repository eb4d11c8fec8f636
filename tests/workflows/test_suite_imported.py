"""The standard suite on a published checkpoint: its dictionaries, its lengths, no record of its training."""

from __future__ import annotations

import pytest

from geneformer_grn.workflows import (
    suite,
    suite_annotation,
    suite_effects,
    suite_genes,
    suite_masked,
    suite_networks,
    suite_robustness,
    suite_stimulus,
)
from geneformer_grn.workflows.evaluate import EvaluateSettings, evaluate_model
from geneformer_grn.workflows.import_geneformer import import_geneformer


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("setting", ["v1", "v2"])
def test_an_imported_geneformer_is_asked_every_kind_of_question(
    golden_dir, shared_dir, tmp_path, monkeypatch, setting
):
    """A random model, few cells; integration, depth and technology ask nothing that these do not."""
    few = {
        suite_masked: {"N_CELLS": 4, "_N_FITTED": 40},
        suite_annotation: {"N_CELLS": 200, "N_DRAWS": 1},
        suite_genes: {"N_CELLS": 20},
        suite_networks: {"N_SIMULATED": 40, "N_CELLS": 10, "N_TARGETS": 50},
        suite_robustness: {"N_DONOR": 60},
        suite_effects: {"N_CELLS": 3, "N_BULK_CELLS": 1, "N_BULK_GENES": 2},
        suite_stimulus: {"N_CELLS": 2},
    }
    for module, values in few.items():
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)
    folder, weights = tmp_path / setting, golden_dir / "models" / f"{setting}_3L64"
    import_geneformer(golden_dir / "dictionaries", setting, folder, weights=weights)
    tasks = (
        "masked", "few-shot", "gene class", "network", "perturbation", "robustness: donor",
        "robustness: species",
    )  # fmt: skip
    settings = EvaluateSettings(suite="standard", only=tasks, device="cpu", max_cells=2)
    rows = evaluate_model(folder, (), settings, data=shared_dir / "data")["suite"]["rows"]
    assert [row["not_run"] for row in rows if "not_run" in row] == []
    assert {row["task"] for row in rows} == {
        one.task for one in suite.QUESTIONS if one.task.startswith(tasks)
    }
    for row in rows:
        assert row["model"] is not None
        assert row["ahead_of_untrained"]["mean"] is not None
        assert "rank_position" not in row["baselines"]
