"""A tiny model with ``<cls>`` and ``<eos>`` around every cell, one without, and both with stock attention."""

import numpy as np
import pytest
from transformers import BertForMaskedLM

from geneformer_grn.genes.vocabulary import SPECIAL_TOKENS, GeneVocabulary
from geneformer_grn.model.encoder import ModelConfig, load_encoder, new_model, save_checkpoint


@pytest.fixture(scope="session", params=["default", "v1"])
def any_encoder(request, tiny_encoder, tiny_vocabulary, tmp_path_factory):
    """The tiny model; with ``v1`` one of the same genes whose cells have no special tokens."""
    if request.param == "default":
        return tiny_encoder
    special = np.array(SPECIAL_TOKENS["v1"], dtype=object)
    first = tiny_vocabulary.n_special
    vocabulary = GeneVocabulary(
        ensembl_ids=np.concatenate([special, tiny_vocabulary.ensembl_ids[first:]]),
        symbols=np.concatenate([special, tiny_vocabulary.symbols[first:]]),
        medians=np.concatenate([np.full(len(special), np.nan), tiny_vocabulary.medians[first:]]),
        is_regulator=np.concatenate(
            [np.zeros(len(special), dtype=bool), tiny_vocabulary.is_regulator[first:]]
        ),
        setting="v1",
        max_length=48,
    )
    config = ModelConfig(n_layers=2, hidden_size=32, n_heads=2, ffn_size=64, initializer_range=0.2)
    folder = tmp_path_factory.mktemp("checkpoint") / "v1"
    save_checkpoint(new_model(config, vocabulary, seed=1), vocabulary, folder)
    return load_encoder(folder, device="cpu")


@pytest.fixture(scope="session")
def plain_model(any_encoder, tmp_path_factory):
    """The weights of `any_encoder` with stock attention, for one padded cell at a time."""
    folder = tmp_path_factory.mktemp("plain")
    any_encoder.model.save_pretrained(folder)
    return BertForMaskedLM.from_pretrained(folder, attn_implementation="eager").eval()
