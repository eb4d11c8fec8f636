"""The scaling study's fit finds known constants, and says what its runs do not identify."""

from __future__ import annotations

import json

import numpy as np
import pytest

E, A, a, B, b = 2.0, 60.0, 0.35, 900.0, 0.4
BLOCKS = 20


@pytest.fixture
def scaling_fit(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    return pytest.importorskip("scaling_fit")


def study(sizes, budgets, *, noise=0.0, seeds=(0,), law=(E, A, a, B, b)) -> dict:
    """Results as the study writes them, with losses of a known law in place of runs."""
    generator = np.random.default_rng(0)
    big_e, big_a, small_a, big_b, small_b = law
    rows = []
    for seed in seeds:
        for size in sizes:
            shift = np.exp(generator.normal(0, noise))
            for number, tokens in enumerate(budgets):
                loss = (big_e + big_a / size**small_a + big_b / tokens**small_b) * shift
                own = {"block_loss": [100 * loss] * BLOCKS}
                counts = {"non_embedding_parameters": size, "parameters": 3 * size}
                row = {"name": f"s{size}", "seed": seed, "budget": number, "tokens": tokens, **counts}
                rows.append(row | {"held_out": {"blood": own}})
    shape = {"vocabulary": 21_023, "positions": 1024}
    conditions = {"corpus_tokens": 15_000_000, "corpus_cells": 16_000, "shape": shape}
    return {"rows": rows, "conditions": conditions, "held_out": {"blood": {"block_masked": [100] * BLOCKS}}}


SIZES = (12_000, 60_000, 200_000, 600_000)
BUDGETS = (600_000, 1_200_000, 2_400_000, 4_800_000, 9_600_000)


def test_known_constants_come_back(scaling_fit):
    size, tokens = (values.ravel() for values in np.meshgrid(np.array(SIZES), np.array(BUDGETS)))
    law = scaling_fit.fit_law(size, tokens, E + A / size**a + B / tokens**b)
    found = law.constants()
    assert found["a"] == pytest.approx(a, rel=0.02)
    assert found["b"] == pytest.approx(b, rel=0.02)
    assert found["E"] == pytest.approx(E, rel=0.02)
    assert found["A"] == pytest.approx(A, rel=0.2)
    at = law.loss(3e7, 3e10)[0]
    assert at == pytest.approx(E + A / 3e7**a + B / 3e10**b, rel=0.01)


def test_the_gradient_is_that_of_differences(scaling_fit):
    generator = np.random.default_rng(1)
    x, y, target = generator.normal(size=(3, 12))
    theta = np.array([0.3, -0.2, 0.5, 0.4, 0.6])
    value, gradient = scaling_fit._objective(theta, x, y, target)
    for at, step in enumerate(1e-7 * np.eye(5)):
        up, down = (scaling_fit._objective(theta + sign * step, x, y, target)[0] for sign in (1, -1))
        assert gradient[at] == pytest.approx((up - down) / 2e-7, rel=1e-4, abs=1e-6)
    assert value > 0


def test_a_study_with_little_noise_is_identified_and_covers_the_truth(scaling_fit):
    result = study(SIZES, BUDGETS, noise=0.0005, seeds=(0, 1))
    fit = scaling_fit.fit_study(result, draws=20)["kinds"]["blood"]["non_embedding_parameters"]
    assert fit["identified"], fit["reasons"]
    assert fit["constants"]["b"]["low"] < b < fit["constants"]["b"]["high"]
    assert fit["seed_sd_log"] == pytest.approx(0.0005, rel=0.9)
    for each in fit["predictions"]:
        assert each["low"] <= each["loss"] <= each["high"]
        assert each["identified"] == (each["high"] - each["low"] <= scaling_fit.WIDEST)
    assert fit["predictions"][0]["tokens"] == pytest.approx(30e6 * 15_000_000 / 16_000)


def test_tokens_that_never_vary_identify_nothing(scaling_fit):
    result = study(SIZES, BUDGETS[:1])
    fit = scaling_fit.fit_study(result, draws=5)["kinds"]["blood"]["parameters"]
    assert not fit["identified"]
    assert fit["reasons"] == ["1 different token budgets"]
    assert "predictions" not in fit


def test_a_loss_that_ignores_the_size_has_no_exponent_of_it(scaling_fit):
    result = study(SIZES, BUDGETS, noise=0.003, law=(E, 0.0, a, B, b), seeds=(0, 1))
    fit = scaling_fit.fit_study(result, draws=20)["kinds"]["blood"]["non_embedding_parameters"]
    assert not fit["identified"]
    assert any("the interval of a" in reason for reason in fit["reasons"])
    assert not any(each["identified"] for each in fit["predictions"])


def test_a_curve_that_no_power_law_follows_is_said_to_be_none(scaling_fit):
    result = study(SIZES, BUDGETS)
    for row in result["rows"]:  # a plateau, and then a fall
        fallen = 8.0 - 2.0 / (1.0 + (3e6 / row["tokens"]) ** 3) - 0.1 * np.log(row["parameters"] / 1e4)
        row["held_out"]["blood"]["block_loss"] = [100 * fallen] * BLOCKS
    fit = scaling_fit.fit_study(result, draws=5)["kinds"]["blood"]["non_embedding_parameters"]
    assert not fit["identified"]
    assert any("misses the runs" in reason for reason in fit["reasons"])


def test_what_repeated_tokens_are_worth(scaling_fit):
    assert scaling_fit.effective_tokens([1e6, 1e7], 1e7).tolist() == [1e6, 1e7]
    four = float(scaling_fit.effective_tokens(4e7, 1e7))
    assert 3.6e7 < four < 4e7, "up to four epochs, repeated tokens are nearly as good as new ones"
    endless = float(scaling_fit.effective_tokens(1e12, 1e7))
    assert endless == pytest.approx(1e7 * (1 + scaling_fit.REPEATS_WORTH))


def test_parameters_without_embeddings_are_those_of_torch(scaling_fit, tiny_vocabulary):
    from geneformer_grn.model.encoder import ModelConfig, new_model
    from geneformer_grn.training.config import ModelSection

    section = ModelSection(n_layers=2, hidden_size=16, n_heads=2, ffn_size=32)
    model = new_model(ModelConfig(**section.shape), tiny_vocabulary, seed=0)
    shape = {"vocabulary": len(tiny_vocabulary), "positions": tiny_vocabulary.max_length}
    counted = sum(
        weight.numel()
        for name, weight in model.named_parameters()
        if "_embeddings" not in name and not name.endswith(("predictions.bias", "decoder.bias"))
    )
    assert scaling_fit.non_embedding(section, shape) == counted


@pytest.fixture
def scaling(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    return pytest.importorskip("scaling")


@pytest.mark.slow
def test_a_study_that_is_stopped_goes_on_and_each_row_is_a_run(
    scaling, corpus_folder, held_out_folder, tmp_path, monkeypatch
):
    out, page = tmp_path / "R.json", tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text(f"By hand.\n\n{scaling.write_page.__globals__['BEGIN']}\nold\n<!-- end -->\nAfter.\n")
    fixed = ["--quick", "--corpus", str(corpus_folder), "--validation", str(held_out_folder)]
    fixed += ["--out", str(out), "--page", str(page)]
    whole, rows = scaling.train, []

    def stops(*arguments, **options):
        if len(rows) == 4:
            raise KeyboardInterrupt
        rows.append(whole(*arguments, **options))
        return rows[-1]

    monkeypatch.setattr(scaling, "train", stops)
    with pytest.raises(KeyboardInterrupt):
        scaling.main(fixed)
    assert len(json.loads(out.read_text())["rows"]) == 4
    with pytest.raises(SystemExit):
        scaling.main(fixed)
    monkeypatch.setattr(scaling, "train", whole)
    with pytest.raises(SystemExit, match="another study"):
        scaling.main([*fixed, "--resume", "--set", "optim.lr=1e-3"])
    scaling.main([*fixed, "--resume"])

    text = out.read_text()
    result = json.loads(text)
    assert str(tmp_path) not in text
    assert result["rows"][:4] == rows
    assert result["plan"]["steps"] == [10, 20, 40]
    keys = [(row["name"], row["seed"], row["budget"]) for row in result["rows"]]
    trunks = [("1x16", 0), ("1x32", 0), ("2x32", 0), ("1x16", 1)]
    assert keys == [(*trunk, budget) for trunk in trunks for budget in (2, 1, 0)]
    assert result["cpu_seconds"] >= sum(row["cpu_seconds"] for row in result["rows"])
    masked = sum(result["held_out"]["other"]["block_masked"])
    for row in result["rows"]:
        scores = row["held_out"]["other"]
        assert sum(scores["block_loss"]) / masked == pytest.approx(scores["loss"], abs=1e-3)
    shown = page.read_text()
    assert shown.startswith("By hand.")
    assert shown.endswith("After.\n")
    assert "old" not in shown
    assert f"{result['rows'][0]['held_out']['other']['loss']:.3f}" in shown
    assert (page.parent / "images" / "scaling.png").stat().st_size > 5_000
    assert not (tmp_path / "R-runs" / "1x16-seed0").exists(), "finished runs leave nothing behind"


def test_a_budget_too_small_to_get_past_the_warm_up_is_refused(
    scaling, corpus_folder, held_out_folder, tmp_path, monkeypatch
):
    speed = {"tokens_per_step": 4000, "cpu_s_per_step": 1.0, "start_cpu_s": 1.0}
    monkeypatch.setattr(scaling, "measure", lambda *_: speed)
    fixed = ["--corpus", str(corpus_folder), "--validation", str(held_out_folder), "--plan"]
    with pytest.raises(SystemExit, match="40 are warm-up; give more --cpu-hours"):
        scaling.main([*fixed, "--out", str(tmp_path / "R.json"), "--cpu-hours", "0.1"])
    with pytest.raises(SystemExit):
        scaling.main([*fixed, "--out", str(tmp_path / "R.json"), "--budgets", "2"])


def test_a_plan_fills_the_hours_and_no_more(
    scaling, corpus_folder, held_out_folder, tmp_path, monkeypatch, capsys
):
    speed = {"tokens_per_step": 4000, "cpu_s_per_step": 0.5, "start_cpu_s": 10.0}
    monkeypatch.setattr(scaling, "measure", lambda *_: speed)
    fixed = ["--corpus", str(corpus_folder), "--validation", str(held_out_folder), "--plan"]
    scaling.main([*fixed, "--out", str(tmp_path / "R.json"), "--cpu-hours", "4", "--repeats", "0"])
    text = capsys.readouterr().out
    (steps,) = [line for line in text.splitlines() if line.startswith("runs of")]
    counts = [int(count) for count in steps.split("runs of ")[1].split(" steps")[0].split(", ")]
    assert [count // counts[0] for count in counts] == [1, 2, 4, 8]
    seconds = 4 * 0.5 * (counts[3] + 0.2 * sum(counts[:3]))
    assert 0.7 * 4 * 3600 < seconds < 0.8 * 4 * 3600
    assert not (tmp_path / "R.json").exists()
