from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM

from geneformer_grn.training.validation import masked_cells, masked_gene_scores


def test_scores_equal_plain_bert_on_one_cell_at_a_time(
    corpus, tiny_vocabulary, tiny_encoder, tiny_checkpoint
):
    ours = masked_gene_scores(
        tiny_encoder.model, corpus, tiny_vocabulary, seed=1, max_cells=20, token_budget=200
    )
    plain = AutoModelForMaskedLM.from_pretrained(tiny_checkpoint).eval()
    losses, right = [], []
    for input_ids, labels in masked_cells(corpus, tiny_vocabulary, seed=1, max_cells=20):
        with torch.inference_mode():
            logits = plain(torch.from_numpy(input_ids)[None]).logits[0].double()
        for place in np.flatnonzero(labels != -100):
            losses.append(-float(logits[place].log_softmax(0)[labels[place]]))
            right.append(int(logits[place].argmax()) == labels[place])
    assert ours["n_cells"] == 20
    assert ours["n_masked"] == len(losses)
    assert ours["loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    assert ours["accuracy"] == pytest.approx(np.mean(right))


def test_answers_are_never_in_sight(corpus, tiny_vocabulary):
    cells = masked_cells(corpus, tiny_vocabulary, seed=0)
    assert len(cells) == len(corpus)
    mask = tiny_vocabulary.special("<mask>")
    for input_ids, labels in cells:
        hidden = labels != -100
        assert hidden.any()
        assert (input_ids[hidden] == mask).all()
        assert (input_ids[~hidden] != mask).all()


def test_same_seed_same_cells_and_sequences_work_too(corpus, tiny_vocabulary, tiny_encoder):
    sequences = [corpus.cell(cell) for cell in range(len(corpus))]
    one = masked_gene_scores(tiny_encoder.model, corpus, tiny_vocabulary, seed=4, max_cells=10)
    two = masked_gene_scores(
        tiny_encoder.model, sequences, tiny_vocabulary, seed=4, max_cells=10, token_budget=99
    )
    assert one == pytest.approx(two, abs=1e-6)
    assert one != masked_gene_scores(tiny_encoder.model, corpus, tiny_vocabulary, seed=5, max_cells=10)


def test_nothing_to_score_is_said(tiny_vocabulary, tiny_encoder):
    with pytest.raises(ValueError, match="nothing to score"):
        masked_gene_scores(tiny_encoder.model, [], tiny_vocabulary)
