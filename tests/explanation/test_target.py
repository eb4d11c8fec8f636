"""What is explained: the head that is meant, and the log odds it gives."""

import numpy as np
import pytest
import torch

from geneformer_grn.explanation.target import Explained, choose_head
from geneformer_grn.model.heads import HeadSpec

CELLS = HeadSpec("cell_type", "cell", "classification", ("A", "B", "C"))
AGE = HeadSpec("age", "cell", "regression")
GENES = HeadSpec("dosage", "gene", "classification", ("no", "yes"))


def test_log_odds_are_those_of_the_predicted_probabilities(explained, ranked, chosen):
    cells, targets = chosen
    inputs = [(explained.input_of(ranked, cell), None) for cell in cells]
    found = explained.run_many(inputs, targets, token_budget=100)
    probability = explained.model.predict(ranked, cells=cells)["cell_type"][np.arange(5), targets]
    np.testing.assert_allclose(found, np.log(probability / (1 - probability)), atol=1e-4)


def test_a_regression_is_its_value(tiny_encoder, with_heads, ranked):
    model = with_heads(tiny_encoder, AGE)
    explained = choose_head(model)
    found = explained.run_many(
        [(explained.input_of(ranked, cell), None) for cell in (4, 9)], np.zeros(2, int)
    )
    np.testing.assert_allclose(found, model.predict(ranked, cells=np.array([4, 9]))["age"], atol=1e-5)
    assert explained.names == ("age",)


def test_a_model_that_reads_less_explains_what_it_reads(tiny_encoder, with_heads, ranked):
    explained = choose_head(with_heads(tiny_encoder, CELLS, max_length=12))
    assert len(explained.input_of(ranked, 0)) == 12


def test_the_head(tiny_encoder, with_heads):
    model = with_heads(tiny_encoder, CELLS, AGE, GENES)
    assert choose_head(model, "age").spec is AGE
    assert choose_head(with_heads(tiny_encoder, CELLS, GENES)).spec is CELLS


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (None, r"2 tasks of cells \(cell_type, age\); name one"),
        ("sex", "no task 'sex'; its tasks of cells: cell_type, age"),
        ("dosage", "task of genes"),
    ],
)
def test_heads_that_cannot_be_explained(tiny_encoder, with_heads, task, message):
    with pytest.raises(ValueError, match=message):
        choose_head(with_heads(tiny_encoder, CELLS, AGE, GENES), task)


def test_an_unknown_class(by_mean):
    assert by_mean.class_number("C") == 2
    with pytest.raises(ValueError, match="no class 'D' of 'cell_type'; it knows A, B, C"):
        by_mean.class_number("D")


def test_two_classes_of_equal_logits_are_even_odds(by_mean):
    two = Explained(by_mean.model, HeadSpec("x", "cell", "classification", ("a", "b")))
    assert two.scores(torch.tensor([[3.0, 3.0]]), torch.tensor([1])).item() == 0.0
