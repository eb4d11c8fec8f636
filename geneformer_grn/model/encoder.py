"""The encoder as the rest of the package uses it: load a checkpoint, run packed cells through it, save one.

Only the layers that are asked for are run, and the language-model head only where a token is masked: the
reference method computes both in full and throws them away. States come back as float32 whatever the
precision inside.
"""

from __future__ import annotations

import contextlib
import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import BertForMaskedLM

from geneformer_grn._runtime import Precision, choose_device
from geneformer_grn.cells.batches import PackedBatch
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.model.attention import AttentionCapture
from geneformer_grn.model.checkpoint import ModelConfig, load_weights, new_model, save_checkpoint
from geneformer_grn.model.folder import read_model_config, read_vocabulary, resolve_checkpoint
from geneformer_grn.model.inference import InferenceLayers
from geneformer_grn.model.layout import AttentionLayout

__all__ = [
    "Encoder",
    "ModelConfig",
    "load_encoder",
    "masked_head",
    "new_model",
    "packed_states",
    "save_checkpoint",
]


@dataclass(frozen=True, eq=False)
class Encoder:
    """A pretrained model in eval mode with its vocabulary, ready for packed batches.

    Parameters
    ----------
    model
        The BERT, with packed attention, on `device`, weights in float32.
    vocabulary
        What its tokens mean.
    device
        Where it runs.
    precision
        ``fp32``, or ``bf16`` (matrix products in bfloat16; residual sums and norms in float32).
    name
        Shipped name, Hugging Face id or folder name, as provenance records it (never a path).
    """

    model: BertForMaskedLM
    vocabulary: GeneVocabulary
    device: torch.device
    precision: Precision = "fp32"
    name: str = ""

    @property
    def n_layers(self) -> int:
        """Number of encoder layers."""
        return int(self.model.config.num_hidden_layers)

    @property
    def hidden_size(self) -> int:
        """Width of a state."""
        return int(self.model.config.hidden_size)

    @property
    def n_parameters(self) -> int:
        """Number of weights, the tied decoder counted once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def require_layer(self, encoder_layer: int) -> int:
        """Return how many layers run to give the states of an encoder layer.

        Parameters
        ----------
        encoder_layer
            0 is the last layer, -1 the one before, ``-n_layers`` the embedding.

        Raises
        ------
        ValueError
            There is no such layer.

        Examples
        --------
        >>> encoder.require_layer(-1) == encoder.n_layers - 1  # doctest: +SKIP
        True
        """
        if not -self.n_layers <= encoder_layer <= 0:
            raise ValueError(
                f"encoder layer {encoder_layer} does not exist: this model has {self.n_layers} layers, "
                f"counted from 0 (the last) and -1 (the one before) down to {-self.n_layers} (the embedding)"
            )
        return self.n_layers + encoder_layer

    def up_to(self, encoder_layer: int) -> Encoder:
        """Return the encoder without the layers above one: what was that layer is then the last.

        Parameters
        ----------
        encoder_layer
            0 leaves all layers, -1 all but the last, ``-n_layers`` the embedding alone.

        Returns
        -------
        Encoder
            A model of its own that shares its weights with this one; its states of layer 0 are those of
            `encoder_layer` here. Its masked-language head was learnt on the layer that is gone.

        Raises
        ------
        ValueError
            There is no such layer.

        Examples
        --------
        >>> encoder.up_to(-1).n_layers == encoder.n_layers - 1  # doctest: +SKIP
        True
        """
        n_layers = self.require_layer(encoder_layer)
        if not encoder_layer:
            return self
        # Weights that the copy already holds are not copied.
        shared: dict[int, Any] = {id(weight): weight for weight in self.model.parameters()}
        model = cast("Any", copy.deepcopy(self.model, shared))
        del model.bert.encoder.layer[n_layers:]
        model.config.num_hidden_layers = n_layers
        return replace(self, model=model)

    def hidden_states(
        self, batch: PackedBatch, *, encoder_layer: int = -1, capture: AttentionCapture | None = None
    ) -> Tensor:
        """Return the state of every token of a packed batch, running only the layers needed.

        Parameters
        ----------
        batch
            Packed cells; moved to the encoder's device if they are elsewhere.
        encoder_layer
            0 is the last layer, -1 the one before (the reference method's default), ``-n_layers`` the
            embedding.
        capture
            Receives queries and keys of each layer that runs.

        Returns
        -------
        Tensor
            ``(T, d)`` float32 on the encoder's device, in the order of ``batch.input_ids``.

        Raises
        ------
        ValueError
            There is no such layer, or a cell is longer than the model's positions.
        """
        n_layers = self.require_layer(encoder_layer)
        batch = batch.to(self.device)
        with torch.inference_mode():
            if capture is None:
                return self._run(batch, n_layers)
            with self._autocast():
                return packed_states(self.model, batch, n_layers=n_layers, capture=capture)[0].float()

    def masked_logits(self, batch: PackedBatch) -> Tensor:
        """Return the logits ``(M, V)`` float32 of all tokens at the M masked positions of a packed batch."""
        batch = batch.to(self.device)
        with torch.inference_mode():
            states = self._run(batch, self.n_layers)
            with self._autocast():
                return masked_head(self.model, states[None], batch.masked_index)

    @cached_property
    def inference(self) -> InferenceLayers:
        """The model's layers for inference, in `precision`; in bf16 a copy of the weights as they are now."""
        return InferenceLayers(self.model, torch.bfloat16 if self.precision == "bf16" else torch.float32)

    def _run(self, batch: PackedBatch, n_layers: int) -> Tensor:
        """Return the float32 states ``(T, d)`` of a batch on the device after the first `n_layers` layers."""
        _require_fitting(self.model, batch)
        embedded = self.inference.embed(batch.input_ids[0], batch.position_ids[0])
        return self.inference.run(embedded, batch.cu_seqlens, batch.max_seqlen, layers=range(n_layers))

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def packed_states(
    model: BertForMaskedLM,
    batch: PackedBatch,
    *,
    n_layers: int | None = None,
    capture: AttentionCapture | None = None,
    layout: AttentionLayout | None = None,
    after: tuple[int, Tensor] | None = None,
) -> Tensor:
    """Run packed cells through the embedding and the first `n_layers` layers, differentiably.

    The layers are called one by one, as ``BertModel.forward`` does, but without its padding mask, its pooler
    and the layers nobody asked for. It compiles without graph breaks when the batch has static shapes.

    Parameters
    ----------
    model
        Loaded or made with packed attention, on the batch's device.
    batch
        Packed cells.
    n_layers
        How many layers to run; all by default, 0 returns the embedding.
    capture
        Receives queries and keys of each layer that runs.
    layout
        Which attention runs, prepared for this batch (`layout.make_layout`); None: the device's usual one.
    after
        Go on from the states ``(1, T, d)`` that the first so many layers gave; default: from the tokens.

    Returns
    -------
    Tensor
        ``(1, T, d)``.

    Raises
    ------
    ValueError
        A cell is longer than the model has positions.
    """
    _require_fitting(model, batch)
    layers = cast("list[torch.nn.Module]", model.bert.encoder.layer)[:n_layers]
    if after is None:
        done, states = 0, model.bert.embeddings(input_ids=batch.input_ids, position_ids=batch.position_ids)
    else:
        done, states = after
    for layer_index, layer in enumerate(layers[done:], start=done):
        states = layer(
            states,
            cu_seqlens=batch.cu_seqlens,
            max_seqlen=batch.max_seqlen,
            capture=capture,
            layer_index=layer_index,
            layout=layout,
        )
    return states


def _require_fitting(model: BertForMaskedLM, batch: PackedBatch) -> None:
    limit = model.config.max_position_embeddings
    if batch.max_seqlen > limit:
        raise ValueError(
            f"a cell of {batch.max_seqlen:,} tokens does not fit the model's {limit:,} positions; crop it "
            "with cells.ranking.model_input"
        )


def masked_head(model: BertForMaskedLM, states: Tensor, masked_index: Tensor) -> Tensor:
    """Return the head's logits ``(M, V)`` float32 at positions `masked_index` of ``(1, T, d)`` states.

    Negative positions (the padding of static shapes) give the logits of position 0: the caller ignores them.
    """
    logits: Tensor = model.cls(states[0].index_select(0, masked_index.clamp(min=0)))
    return logits.float()


def load_encoder(
    model: str | Path = "mini", *, device: str = "auto", precision: Precision = "fp32"
) -> Encoder:
    """Load a checkpoint with its vocabulary, offline.

    Parameters
    ----------
    model
        A shipped name (``mini``), a checkpoint folder, or a Hugging Face id already on disk.
    device
        ``auto``, ``cpu``, ``cuda`` or ``mps``.
    precision
        ``fp32`` or ``bf16``.

    Returns
    -------
    Encoder
        In eval mode, on the device.

    Raises
    ------
    FileNotFoundError
        No such checkpoint, or the folder lacks the vocabulary, ``config.json`` or the weights.
    ValueError
        The files do not belong together or are damaged, or device or precision are unknown.

    Examples
    --------
    >>> encoder = load_encoder("mini", device="cpu")  # doctest: +SKIP
    >>> encoder.hidden_states(batch).shape  # doctest: +SKIP
    torch.Size([9120, 128])
    """
    if precision not in {"fp32", "bf16"}:
        raise ValueError(f"precision {precision!r} is unknown; use fp32 or bf16")
    target = choose_device(device)
    folder = resolve_checkpoint(model)
    vocabulary = read_vocabulary(folder)
    read_model_config(folder, vocabulary)
    return Encoder(
        model=cast("Any", load_weights(folder)).to(target),
        vocabulary=vocabulary,
        device=target,
        precision=precision,
        name=Path(model).name if Path(model).is_dir() else str(model),
    )
