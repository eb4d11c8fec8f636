"""Every method against known edges: the card of whole rankings, verdicts, and what is said of them."""

import numpy as np
import pandas as pd
import pytest

from geneformer_grn.cells.counts import log_normalised, read_counts
from geneformer_grn.network.edges import Universe
from geneformer_grn.network.inference import correlation_edges, ridge_edges
from geneformer_grn.network.scored import to_edges
from geneformer_grn.network.truth import truth_of
from geneformer_grn.workflows.evaluate_network import KnownExpression, NetworkCardSettings, network_card
from geneformer_grn.workflows.network import score_groups
from geneformer_grn.workflows.network_card import MethodCards, card_frame, methods_card, verdict
from geneformer_grn.workflows.network_scorers import NetworkCells
from geneformer_grn.workflows.network_settings import NetworkSettings

N_CELLS, N_REGULATORS, N_GENES = 120, 25, 70
GENES = np.array([f"gene{number}" for number in range(N_GENES)], dtype=object)


@pytest.fixture(scope="module")
def known():
    """25 regulators, each with 4 true targets that follow it: (expression, truth)."""
    generator = np.random.default_rng(0)
    expression = generator.normal(size=(N_CELLS, N_GENES))
    regulators = expression[:, :N_REGULATORS]
    regulators += 1.5 * regulators @ generator.normal(size=(N_REGULATORS, N_REGULATORS)) / 5  # of each other
    pairs = []
    for regulator in range(N_REGULATORS):
        for target in generator.choice(np.arange(N_REGULATORS, N_GENES), 4, replace=False):
            expression[:, target] += 0.9 * expression[:, regulator]
            pairs.append((GENES[regulator], GENES[target], 1))
    return expression, truth_of(pd.DataFrame(pairs, columns=["source", "target", "sign"]), name="known.tsv")


@pytest.fixture(scope="module")
def scored(known):
    expression, _ = known
    genes = {"regulators": GENES[:N_REGULATORS].tolist(), "targets": GENES.tolist()}
    return {
        "ridge": ridge_edges(expression, GENES, **genes),
        "correlation": correlation_edges(expression, GENES, **genes),
    }


@pytest.fixture(scope="module")
def card(known, scored):
    expression, truth = known
    cards = MethodCards(truth, GENES[:N_REGULATORS].tolist(), GENES.tolist(), seed=1)
    cards.add("all", scored, expression, GENES)
    return cards.card()


def test_card_equals_that_of_the_whole_edge_table(card, known, scored):
    """`evaluate network` on all pairs, another way to the same figures."""
    expression, truth = known
    edges = pd.concat([to_edges(pairs) for pairs in scored.values()], ignore_index=True)
    universe = Universe(
        regulators=tuple(GENES[:N_REGULATORS]), targets=tuple(GENES), n_cells={"all": N_CELLS}
    )
    other = network_card(
        edges, truth, universe=universe, expression=KnownExpression(matrix=expression, genes=GENES),
        settings=NetworkCardSettings(n_null=0, seed=1),
    )  # fmt: skip
    assert card["comparison"] == other["comparison"]
    for own, theirs in zip(card["rows"], other["rows"], strict=True):
        for name in ("method", "auprc_ratio", "auprc_ratio_low", "epr", "auroc_high", "sign_accuracy"):
            assert own[name] == theirs[name]
    assert card["rows"][0]["against_correlation"] == other["rows"][0]["against_correlation"]
    assert card["rows"][0]["residual"] == other["rows"][0]["residual"]
    assert "residual" not in card["rows"][1]


def test_what_is_said(card):
    (ridge,) = [row for row in card["rows"] if row["method"] == "ridge"]
    assert ridge["verdict"] == "beats"
    text = methods_card(card)
    assert "| all | ridge |" in text
    assert "- all, ridge: beats correlation (+0." in text
    assert "; adds beyond correlation, the target's expression and how often it is one" in text
    frame = card_frame(card)
    assert frame["method"].tolist() == ["ridge", "correlation"]
    assert frame["verdict"].tolist() == ["beats", ""]
    assert frame["auprc_difference_low"][0] > 0


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        ({"difference": 0.1, "low": 0.01, "high": 0.2}, "beats"),
        ({"difference": 0.1, "low": -0.01, "high": 0.2}, "cannot be told from"),
        ({"difference": -0.1, "low": -0.2, "high": -0.01}, "loses to"),
        ({"difference": 0.5}, "not known"),
    ],
)
def test_verdicts(difference, said):
    assert verdict(difference) == said


def test_too_few_regulators_for_intervals(known, scored, caplog):
    expression, truth = known
    few = truth_of(truth.edges[truth.edges["source"].isin(GENES[:6])], name="few.tsv", circular="drawn here")
    cards = MethodCards(few, GENES[:N_REGULATORS].tolist(), GENES.tolist())
    assert "few.tsv knows 6 of 25 regulators: intervals need 20, so there are none" in caplog.text
    cards.add("all", {"ridge": scored["ridge"]}, expression, GENES)
    card = cards.card()
    assert [row["method"] for row in card["rows"]] == ["correlation", "ridge"]  # though not asked for
    text = methods_card(card)
    assert "too few regulators to say whether it beats correlation" in text
    assert "This truth is circular: to beat correlation on it is no evidence." in text
    with pytest.raises(ValueError, match="none of 2 regulators scored is a regulator in few"):
        MethodCards(few, ["ENSG1", "ENSG2"], GENES.tolist())


def test_combined_learns_from_the_truth_and_is_a_mean_rank_without(tiny_adata, tiny_vocabulary):
    counts = read_counts(tiny_adata, tiny_vocabulary)
    cells = NetworkCells(expression=log_normalised(counts), counts=counts, vocabulary=tiny_vocabulary)
    settings = NetworkSettings(methods=("correlation", "ridge", "combined"), top=5000)
    ids = tiny_vocabulary.ensembl_ids[tiny_vocabulary.is_regulator]
    others = tiny_vocabulary.ensembl_ids[7:60:3]
    generator = np.random.default_rng(2)
    pairs = [(r, t, 0) for r in ids for t in generator.choice(others, 4, replace=False) if r != t]
    truth = truth_of(pd.DataFrame(pairs, columns=["source", "target", "sign"]), name="t.tsv")
    learned = score_groups(cells, settings=settings, truth=truth)
    ranked = score_groups(cells, settings=settings)
    weights = [
        result.edges.query("method == 'combined'").set_index(["source", "target"])["weight"].astype(float)
        for result in (learned, ranked)
    ]
    strengths = ranked.edges[ranked.edges["method"] != "combined"]
    strengths = strengths.assign(strength=strengths["weight"].abs())
    by_method = strengths.pivot_table(index=["source", "target"], columns="method", values="strength")
    expected = by_method.dropna().rank().mean(axis=1)
    both = expected.index.intersection(weights[1].index)
    assert np.corrcoef(expected[both].rank(), weights[1][both].rank())[0, 1] > 0.999
    assert (weights[0] < 1).all()
    assert not weights[0].sort_index().equals(weights[1].sort_index())
    assert [row["method"] for row in learned.card["rows"]] == ["correlation", "ridge", "combined"]
    assert ranked.card is None
