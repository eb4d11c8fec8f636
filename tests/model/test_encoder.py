"""The encoder against the stock Hugging Face forward on padded batches."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM

from geneformer_grn.cells.batches import pack
from geneformer_grn.model.encoder import (
    Encoder,
    ModelConfig,
    load_encoder,
    new_model,
    packed_states,
    save_checkpoint,
)

# The published shapes scaled down: V1-10M, the older 12-layer models, V2-104M (ffn four times the width).
SHAPES = {
    "v1": ModelConfig(
        n_layers=3, hidden_size=32, n_heads=2, ffn_size=64, activation="relu", initializer_range=0.2
    ),
    "older": ModelConfig(
        n_layers=4, hidden_size=32, n_heads=4, ffn_size=64, activation="relu", initializer_range=0.2
    ),
    "v2": ModelConfig(
        n_layers=2, hidden_size=24, n_heads=3, ffn_size=96, activation="gelu", initializer_range=0.2
    ),
}


def random_cells(vocabulary, seed, n_cells=6):
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, vocabulary.max_length + 1, n_cells)
    return [generator.integers(vocabulary.n_special, len(vocabulary), length) for length in lengths]


def padded(cells):
    longest = max(len(cell) for cell in cells)
    ids = torch.zeros(len(cells), longest, dtype=torch.int64)
    for row, cell in enumerate(cells):
        ids[row, : len(cell)] = torch.from_numpy(cell)
    return ids, (torch.arange(longest) < torch.tensor([len(cell) for cell in cells])[:, None]).long()


@pytest.fixture(scope="module", params=SHAPES.values(), ids=SHAPES.keys())
def pair(request, tiny_vocabulary, tmp_path_factory):
    """Our encoder, and the same weights in the stock class with eager attention."""
    folder = tmp_path_factory.mktemp("models") / "model"
    save_checkpoint(new_model(request.param, tiny_vocabulary, seed=3), tiny_vocabulary, folder)
    stock = AutoModelForMaskedLM.from_pretrained(folder, attn_implementation="eager").eval()
    return load_encoder(folder, device="cpu"), stock


@pytest.mark.parametrize("seed", range(3))
def test_packed_equals_padded_in_states_and_logits(pair, tiny_vocabulary, seed):
    encoder, stock = pair
    cells = random_cells(tiny_vocabulary, seed)
    ids, mask = padded(cells)
    with torch.no_grad():
        outputs = stock(ids, attention_mask=mask, output_hidden_states=True)
    everywhere = [np.where(np.arange(len(cell)) % 3 == 0, cell, -100) for cell in cells]
    batch = pack(cells, labels=everywhere)
    kept = mask.bool()
    for encoder_layer in range(-encoder.n_layers, 1):
        expected = outputs.hidden_states[encoder.n_layers + encoder_layer][kept]
        found = encoder.hidden_states(batch, encoder_layer=encoder_layer)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    expected = outputs.logits[kept][batch.masked_index]
    torch.testing.assert_close(encoder.masked_logits(batch), expected, atol=1e-5, rtol=1e-5)


def test_packed_gradients_equal_padded_ones(pair, tiny_vocabulary):
    encoder, stock = pair
    cells = random_cells(tiny_vocabulary, 7)
    ids, mask = padded(cells)
    batch = pack(cells)
    ours, theirs = encoder.model, stock
    for model in (ours, theirs):
        model.zero_grad()
    weight = torch.randn(encoder.hidden_size, generator=torch.Generator().manual_seed(0))
    (packed_states(ours, batch)[0] @ weight).square().mean().backward()
    states = theirs.bert(ids, attention_mask=mask).last_hidden_state[mask.bool()]
    (states @ weight).square().mean().backward()
    expected = dict(theirs.named_parameters())
    compared = 0
    for name, parameter in ours.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, expected[name].grad, atol=1e-5, rtol=1e-4)
            compared += 1
    assert compared > 10


def test_the_stock_forward_takes_packed_batches_too(pair, tiny_vocabulary):
    encoder, _ = pair
    batch = pack(random_cells(tiny_vocabulary, 1))
    with torch.no_grad():
        output = encoder.model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            cu_seqlens=batch.cu_seqlens,
            max_seqlen=batch.max_seqlen,
        ).logits
        expected = encoder.model.cls(packed_states(encoder.model, batch))
        torch.testing.assert_close(output, expected)
        with pytest.raises(ValueError, match="would attend to each other"):
            encoder.model(input_ids=batch.input_ids, position_ids=batch.position_ids)


def test_a_dummy_tail_and_repeated_boundaries_change_nothing(tiny_encoder, tiny_vocabulary):
    cells = random_cells(tiny_vocabulary, 2, n_cells=3)
    plain = pack(cells)
    tailed = pack([*cells, np.zeros(5, dtype=np.int64)])
    boundaries = torch.cat([tailed.cu_seqlens, tailed.cu_seqlens[-1:].repeat(4)])
    fixed = type(tailed)(
        **{name: getattr(tailed, name) for name in vars(tailed)}
        | {"cu_seqlens": boundaries, "max_seqlen": 48}
    )
    expected = tiny_encoder.hidden_states(plain)
    torch.testing.assert_close(tiny_encoder.hidden_states(fixed)[: len(expected)], expected)


def test_position_ids_are_those_of_the_batch(tiny_encoder, tiny_vocabulary):
    cell = random_cells(tiny_vocabulary, 4, n_cells=1)[0][:10]
    shifted = pack([cell], position_ids=[np.arange(10) + 3])
    assert not torch.allclose(
        tiny_encoder.hidden_states(pack([cell])), tiny_encoder.hidden_states(shifted), atol=1e-3
    )


def test_bf16_is_close_and_returns_float32(tiny_encoder, tiny_vocabulary):
    batch = pack(random_cells(tiny_vocabulary, 5))
    rough = Encoder(
        model=tiny_encoder.model, vocabulary=tiny_vocabulary, device=tiny_encoder.device, precision="bf16"
    )
    found = rough.hidden_states(batch)
    assert found.dtype == torch.float32
    exact = tiny_encoder.hidden_states(batch)
    assert 0 < float((found - exact).abs().max()) < 0.2


@pytest.mark.parametrize("encoder_layer", [1, -3])
def test_a_layer_that_does_not_exist_is_refused(tiny_encoder, tiny_vocabulary, encoder_layer):
    batch = pack(random_cells(tiny_vocabulary, 0, n_cells=1))
    with pytest.raises(ValueError, match=f"encoder layer {encoder_layer} does not exist: this model has 2"):
        tiny_encoder.hidden_states(batch, encoder_layer=encoder_layer)


def test_a_cell_longer_than_the_positions_is_refused(tiny_encoder):
    with pytest.raises(ValueError, match="a cell of 49 tokens does not fit the model's 48 positions"):
        tiny_encoder.hidden_states(pack([np.full(49, 7)]))


def test_capture_sees_every_layer_that_runs(tiny_encoder, tiny_vocabulary):
    seen = []

    class Recorder:
        def add(self, layer_index, segment, query, key, scaling):
            seen.append((layer_index, segment, tuple(query.shape)))

    cells = [cell[:6] for cell in random_cells(tiny_vocabulary, 6, n_cells=2)]
    tiny_encoder.hidden_states(pack(cells), encoder_layer=0, capture=Recorder())
    assert [item[:2] for item in seen] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert seen[0][2] == (2, len(cells[0]), 16)


def test_precision_and_names_are_checked(tiny_checkpoint):
    with pytest.raises(ValueError, match="precision 'fp8' is unknown"):
        load_encoder(tiny_checkpoint, device="cpu", precision="fp8")
    assert load_encoder(str(tiny_checkpoint), device="cpu").name == "tiny"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # inductor's own warnings
def test_it_compiles_as_one_graph(tiny_encoder, tiny_vocabulary):
    batch = pack(random_cells(tiny_vocabulary, 8))
    compiled = torch.compile(packed_states, fullgraph=True)
    torch.testing.assert_close(
        compiled(tiny_encoder.model, batch), packed_states(tiny_encoder.model, batch), atol=1e-5, rtol=1e-5
    )


def test_layers_are_counted_from_the_last(tiny_encoder):
    assert [tiny_encoder.require_layer(layer) for layer in (0, -1, -2)] == [2, 1, 0]
    for layer in (1, -3):
        with pytest.raises(ValueError, match=f"encoder layer {layer} does not exist"):
            tiny_encoder.require_layer(layer)


@pytest.mark.parametrize("encoder_layer", [0, -1, -2])
def test_without_the_layers_above_one_that_one_is_the_last(tiny_encoder, tiny_vocabulary, encoder_layer):
    batch = pack(random_cells(tiny_vocabulary, 7))
    lower = tiny_encoder.up_to(encoder_layer)
    assert lower.n_layers == len(lower.model.bert.encoder.layer) == 2 + encoder_layer
    found = lower.hidden_states(batch, encoder_layer=0)
    assert torch.equal(found, tiny_encoder.hidden_states(batch, encoder_layer=encoder_layer))
    held = {weight.data_ptr() for weight in tiny_encoder.model.parameters()}
    assert {weight.data_ptr() for weight in lower.model.parameters()} <= held, "no weight is copied"
    assert tiny_encoder.n_layers == len(tiny_encoder.model.bert.encoder.layer) == 2
