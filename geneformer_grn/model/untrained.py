"""A model's untrained twin: what of a result the architecture has for nothing."""

from __future__ import annotations

from geneformer_grn.model.checkpoint import ModelConfig, new_model
from geneformer_grn.model.encoder import Encoder


def untrained_twin(encoder: Encoder, *, seed: int = 0) -> Encoder:
    """Return a model of the same shape, vocabulary, device and precision with random weights.

    Parameters
    ----------
    encoder
        The model.
    seed
        Of the weights.

    Examples
    --------
    >>> untrained_twin(load_encoder("mini")).n_parameters  # doctest: +SKIP
    3654052
    """
    bert = encoder.model.config
    shape = ModelConfig(
        n_layers=bert.num_hidden_layers,
        hidden_size=bert.hidden_size,
        n_heads=bert.num_attention_heads,
        ffn_size=bert.intermediate_size,
        activation=bert.hidden_act,
        dropout=bert.hidden_dropout_prob,
        initializer_range=bert.initializer_range,
    )
    model = new_model(shape, encoder.vocabulary, seed=seed).eval().to(encoder.device)
    return Encoder(model, encoder.vocabulary, encoder.device, encoder.precision, "random weights")
