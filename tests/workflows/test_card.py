"""Model cards: every figure of the results is on the card, and damaged results make none."""

from __future__ import annotations

import json

import pytest

from geneformer_grn.workflows.card import render_card, write_card


@pytest.fixture
def results(results_file):
    return json.loads(results_file.read_text())


@pytest.fixture
def card(results_file, tmp_path):
    write_card(results_file, tmp_path / "card.md")
    return (tmp_path / "card.md").read_text()


def test_every_score_is_on_the_card(card, results):
    scored = results["masked_genes"]
    for row in [*scored["files"], scored["all"]]:
        for name in ("model", "rank_position", "untrained"):
            assert f"{row[name]['loss']:.3f} nats, {100 * row[name]['accuracy']:.2f} %" in card
        gain = row["ahead_of"]["rank_position"]
        for key in ("mean", "low", "high"):
            assert f"{gain['loss'][key]:+.3f}" in card
            assert f"{100 * gain['accuracy'][key]:+.2f}" in card


def test_the_model_and_its_training_are_on_the_card(card, results):
    checkpoint, training = results["checkpoint"], results["training"]
    for figure in (
        f"{checkpoint['layers']} layers × {checkpoint['hidden_size']}",
        f"{checkpoint['parameters']:,} parameters",
        f"{checkpoint['vocabulary']['n_genes']:,} human genes",
        f"({checkpoint['vocabulary']['n_regulators']:,} marked as regulators)",
        f"Weights: {checkpoint['weights_mb']} MB",
        checkpoint["weights_sha256"][:16],
        checkpoint["vocabulary"]["fingerprint"][:16],
        f"{training['corpus']['n_cells']:,} ({training['corpus']['n_tokens']:,} tokens)",
        f"{training['steps']:,} steps, {training['tokens']:,} tokens, {training['hours']:.2f} hours",
        training["device"],
        f"Evaluated {results['date']} on cpu (fp32)",
        f"--max-cells {results['conditions']['max_cells']} --seed {results['conditions']['seed']}",
        results["versions"]["torch"],
        "| training.h5ad | 40 | none | training licence |",
    ):
        assert figure in card, figure
    last = training["loss_curve"][-1]
    assert f"| {last['step']:,} | {last['loss']:.3f} |" in card
    assert "| 90 | 4.568 | 12.34 % | 5.432 | 9.87 % |" in card


def test_the_card_is_markdown_with_front_matter_and_nothing_unfilled(card):
    assert card.startswith("---\nlicense: apache-2.0\n")
    for wrong in ("{{", "{%", "None", "nan", "Undefined"):
        assert wrong not in card, wrong


@pytest.mark.parametrize(
    ("low", "high", "word"), [(0.1, 0.3, "ahead"), (-0.3, -0.1, "behind"), (-0.1, 0.1, "not distinguishable")]
)
def test_the_verdict_follows_the_intervals(results, low, high, word):
    for gain in results["masked_genes"]["all"]["ahead_of"].values():
        gain["loss"] = {"mean": (low + high) / 2, "low": low, "high": high}
        gain["accuracy"] = {"mean": 0.2, "low": 0.1, "high": 0.3}
    card = render_card(results)
    assert f"Against the rank-position baseline the model is {word} in loss and ahead in accuracy." in card
    assert f"Against its untrained copy the model is {word} in loss" in card


def test_a_checkpoint_without_record_has_a_card_without_training(results):
    results["training"] = None
    card = render_card(results)
    assert "## Training" not in card
    assert "| vocabulary.h5ad | 40 | not stated | vocabulary licence |" in card


@pytest.mark.parametrize(
    "damage",
    [
        lambda results: results.pop("checkpoint"),
        lambda results: results["checkpoint"].pop("parameters"),
        lambda results: results["masked_genes"].pop("all"),
        lambda results: results["masked_genes"]["all"]["model"].pop("loss"),
        lambda results: results["training"]["corpus"].pop("n_tokens"),
        lambda results: results["training"]["loss_curve"][-1].update(loss=None),
        lambda results: results.update(kind="network"),
        lambda results: results.update(masked_genes=[]),
        lambda results: results.update(checkpoint="mini"),
    ],
)
def test_damaged_results_are_refused_and_leave_no_card(results, tmp_path, damage):
    damage(results)
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match=r"results\.json holds no results of evaluate model"):
        write_card(tmp_path / "results.json", tmp_path / "card.md")
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"text"', "{}", "\x00\x01"])
def test_what_is_no_results_file_is_refused(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match="holds no results"):
        write_card(tmp_path / "results.json", tmp_path / "card.md")
    assert not (tmp_path / "card.md").exists()


def test_no_file_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="write them by evaluate model"):
        write_card(tmp_path / "none.json", tmp_path / "card.md")
