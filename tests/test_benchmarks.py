"""Benchmarks run, agree with themselves, and write what others rely on; speed itself is not tested."""

import json
import math
import statistics
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def run(repository, tmp_path):
    """Run a benchmark with --quick; return its JSON, read strictly."""

    def run(name, *arguments):
        out = tmp_path / "results.json"
        command = [sys.executable, repository / "benchmarks" / f"{name}.py", "--quick", "--out", out]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        text = out.read_text()
        assert str(tmp_path) not in text
        return json.loads(text)

    return run


def test_tokenise(run):
    result = run("tokenise", "--cells", "30")
    assert {"device", "versions", "conditions", "rows", "ratios"} <= set(result)
    assert set(result["device"]) == {"cpu", "cores"}
    assert result["conditions"]["processes"] == 1
    assert result["conditions"]["ties_a_cell_mean"] > 0  # else equal tokens would say nothing about ties
    assert 1_500 < result["conditions"]["genes_a_cell_mean"] < 2_500
    repetitions = result["conditions"]["repetitions"]
    seconds = {}
    for row in result["rows"]:
        assert row["cells"] == 30
        assert row["seconds"] > 0
        assert row["cells_per_s"] == pytest.approx(30 / row["seconds"])
        seconds.setdefault(row["name"], []).append(row["seconds"])
    assert {len(times) for times in seconds.values()} == {repetitions}
    assert {"memory_vs_argsort", "memory_vs_reference", "disk_vs_reference"} <= set(result["ratios"])
    assert all(math.isfinite(value) and value > 0 for value in result["ratios"].values())
    # Larger is better for ours: the other's seconds over ours, within each repetition.
    for key, ours, other in (
        ("memory_vs_argsort", "ours_memory", "argsort"),
        ("memory_vs_reference", "ours_memory", "reference_memory"),
        ("disk_vs_reference", "ours_disk", "reference_disk"),
    ):
        by_hand = [b / a for a, b in zip(seconds[ours], seconds[other], strict=True)]
        assert result["ratios"][key] == pytest.approx(statistics.median(by_hand))


def test_tokenise_refuses_no_cells(repository, tmp_path):
    out = tmp_path / "results.json"
    command = [sys.executable, repository / "benchmarks" / "tokenise.py", "--cells", "0", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "at least 1" in done.stderr
    assert not out.exists()


def test_pretrain(run):
    """A plain and a packed model of the same weights and cells: equal losses, and ratios as the rows say."""
    result = run("pretrain", "--cells", "120", "--repetitions", "1", "--threads", "2", "--device", "cpu")
    assert {"device", "versions", "conditions", "rows", "ratios", "data_path"} <= set(result)
    rows = {row["name"]: row for row in result["rows"]}
    assert len(rows) == len(result["rows"]) == 6
    for order in ("random", "grouped"):
        plain = rows[f"{order}_plain_fp32"]
        for precision, tolerance in (("fp32", 1e-5), ("bf16", 1e-2)):
            ours = rows[f"{order}_ours_{precision}"]
            assert ours["loss"] == pytest.approx(plain["loss"], rel=tolerance)
            by_hand = plain["seconds"] / ours["seconds"]
            assert result["ratios"][f"{order}_{precision}"] == pytest.approx(by_hand)
            tokens = result["conditions"][order]["tokens"]
            assert ours["tokens_per_s"] == pytest.approx(tokens / ours["seconds"])
    conditions = result["conditions"]
    assert conditions["parameters"] == 10_288_722
    assert conditions["dropout"] == conditions["attention_dropout"] == 0.0
    assert conditions["random"]["real_share"] < conditions["grouped"]["real_share"] <= 1.0
    assert conditions["grouped"]["real_share_of_epoch"] > 0.9
    filled = result["data_path"]["filled"]
    assert filled["8192"] > 0.9  # a larger budget than 120 cells have tokens stays half empty
    assert all(0 < share <= 1.0 for share in filled.values())
    assert 0 <= result["data_path"]["wait"]["share"] < 1


@pytest.fixture
def data_path(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    return pytest.importorskip("data_path")


def test_grouped_batches_are_those_of_transformers(data_path):
    """Both sort a permutation within 50 batches at a time, so batches hold neighbours in length."""
    lengths = np.random.default_rng(0).integers(1, 2048, 1_300)
    batches = data_path.plain_batches(lengths, 12, grouped=True, seed=0)
    assert len(np.unique(batches)) == batches.size == 1_296
    for span in (batches[:50], batches[50:100]):
        assert (np.diff(lengths[span.ravel()]) <= 0).all()
    shuffled = data_path.plain_batches(lengths, 12, grouped=False, seed=0)
    assert lengths[shuffled].max(axis=1).mean() > 1.2 * lengths[batches].max(axis=1).mean()
    assert (np.diff(lengths[shuffled], axis=1) <= 0).all()


def test_drawn_lengths_follow_the_real_ones(data_path, repository):
    real = json.loads((repository / "benchmarks" / "lengths.json").read_text())["quantiles"]
    drawn = data_path.drawn_lengths(50_000, np.random.default_rng(0), longest=100_000)
    for place in (10, 50, 90):
        assert np.quantile(drawn, place / 100) == pytest.approx(real[place], rel=0.03)
    assert data_path.drawn_lengths(1_000, np.random.default_rng(0), longest=512).max() == 512


def test_cells_from_arrays(data_path, tmp_path):
    np.save(tmp_path / "input_ids.npy", np.arange(2, 12, dtype=np.uint16))
    np.save(tmp_path / "offsets.npy", np.array([0, 4, 10]))
    cells = data_path.open_cells(corpus=None, arrays=tmp_path, setting="v1", n_cells=0, seed=0)
    assert cells.lengths.tolist() == [4, 6]
    assert cells.cell(1).tolist() == [6, 7, 8, 9, 10, 11]
    np.save(tmp_path / "input_ids.npy", np.full(10, 65_000, dtype=np.uint16))
    with pytest.raises(ValueError, match="below 25,426"):
        data_path.open_cells(corpus=None, arrays=tmp_path, setting="v1", n_cells=0, seed=0)


@pytest.fixture
def recipes(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    return pytest.importorskip("recipes")


def test_differences_within_the_noise_are_none(recipes):
    losses = {
        "baseline": {0: 8.0, 1: 8.2, 2: 8.1},
        "good": {0: 7.7, 1: 7.9, 2: 7.8},
        "same": {1: 8.1},
        "bad": {0: 9.0},
    }
    rows = [
        {"name": name, "seed": seed, "validation_loss": loss}
        for name, by_seed in losses.items()
        for seed, loss in by_seed.items()
    ]
    found = recipes.summarise(rows)
    assert found["baseline_sd_nats"] == pytest.approx(0.1)
    assert {name: variant["verdict"] for name, variant in found["variants"].items()} == {
        "good": "better", "same": "no difference measured", "bad": "worse",
    }  # fmt: skip
    assert found["variants"]["good"]["nats_over_baseline"] == pytest.approx(-0.3)
    assert found["variants"]["good"]["noise_nats"] == pytest.approx(2 * 0.1 * (2 / 3) ** 0.5)
    assert found["variants"]["same"]["noise_nats"] == pytest.approx(2 * 0.1 * 2**0.5)


def test_rows_of_other_conditions_are_refused(recipes, tmp_path):
    assert recipes.read(tmp_path / "new.json", {"tokens": 5})["rows"] == []
    (tmp_path / "old.json").write_text('{"conditions": {"tokens": 4}, "rows": []}')
    with pytest.raises(SystemExit, match="other conditions"):
        recipes.read(tmp_path / "old.json", {"tokens": 5})


@pytest.mark.shared
def test_perturbation_truth(run, shared_dir, monkeypatch):
    """Every method on the same genes, and a second call that finds nothing left to do."""
    monkeypatch.setenv("GENEFORMER_GRN_SHARED", str(shared_dir))
    result = run("perturbation_truth", "--sets", "papalexi", "--cells", "4", "--threads", "2")
    assert {"device", "versions", "conditions", "rows", "sets"} <= set(result)
    card = result["sets"]["papalexi"]["cards"]["knockout"]
    assert {"delta_nats", "untrained_delta_nats", "coexpression", "other_perturbations"} <= set(
        card["strength"]
    )
    assert card["n_responders"] >= 5 * card["n_trials"] > 0
    methods = {row["method"] for row in result["rows"]}
    assert methods == {*card["strength"], *card["direction"]}
    again = run("perturbation_truth", "--sets", "papalexi", "--cells", "4", "--threads", "2")
    assert again == result


@pytest.mark.shared
def test_embeddings(run, shared_dir, monkeypatch):
    """The model, its baselines and random weights on the same cells; a second call finds nothing to do."""
    pytest.importorskip("scib_metrics", exc_type=ImportError)
    monkeypatch.setenv("GENEFORMER_GRN_SHARED", str(shared_dir))
    result = run("embeddings")
    assert {"device", "versions", "data"} <= set(result)
    (found,) = result["data"].values()
    assert found["seconds"] > 0
    assert run("embeddings") == result


@pytest.mark.shared
def test_explanation(run, shared_dir, monkeypatch):
    """Deletion curves of one method, of cells of donors that the model was not tuned on."""
    monkeypatch.setenv("GENEFORMER_GRN_SHARED", str(shared_dir))
    result = run("explanation")
    assert list(result["methods"]) == ["gradient_x_input"]
    assert {row["method"] for row in result["rows"]} >= {"gradient_x_input"}
    assert run("explanation") == result  # and no second model is tuned
