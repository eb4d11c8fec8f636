"""Every kind of attention against plain softmax attention of each cell alone, and packed against padded."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask

from geneformer_grn.cells.batches import pack
from geneformer_grn.cells.packing import BatchShape, fill
from geneformer_grn.model import layout as layouts
from geneformer_grn.model.attention import attend_packed
from geneformer_grn.model.encoder import ModelConfig, new_model, packed_states
from geneformer_grn.model.layout import (
    document_mask,
    make_layout,
    measure_layouts,
    require_trainable,
)
from geneformer_grn.model.objectives import masked_language_loss

LENGTHS = {
    "mixed": [3, 70, 70, 1, 300, 65],
    "one": [200],
    "empty cells between and behind": [128, 0, 128, 2, 0, 0],
    "blocks inside a cell": [1, 700, 5],
}
# Layers and vocabulary scaled down; heads, head sizes and proportions of the published shapes.
SHAPES = {
    "v1-10m": ModelConfig(
        n_layers=2, hidden_size=256, n_heads=4, ffn_size=512, activation="relu", initializer_range=0.1
    ),
    "deep": ModelConfig(n_layers=6, hidden_size=128, n_heads=2, ffn_size=256, initializer_range=0.1),
    "wide": ModelConfig(n_layers=1, hidden_size=768, n_heads=12, ffn_size=3072, initializer_range=0.05),
}


def boundaries(lengths):
    return torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)


def inputs_of(lengths, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    shape = (1, sum(lengths), 3, 16)
    return [
        torch.randn(shape, generator=generator).to(device, dtype).transpose(1, 2).requires_grad_()
        for _ in range(3)
    ]


def softmax_by_cell(query, key, value, lengths):
    parts, start = [], 0
    for length in lengths:
        q, k, v = (tensor[0, :, start : start + length].double() for tensor in (query, key, value))
        parts.append((torch.softmax(q @ k.mT / 4.0, dim=-1) @ v).transpose(0, 1))
        start += length
    return torch.cat(parts)[None]


def attend(inputs, lengths, kind):
    cu_seqlens = boundaries(lengths).to(inputs[0].device)
    layout = make_layout(kind, cu_seqlens, sum(lengths))
    options = {"cu_seqlens": cu_seqlens, "max_seqlen": max(lengths), "layout": layout}
    return attend_packed(nn.Identity(), *inputs, None, **options)[0]


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
@pytest.mark.parametrize("kind", ["segments", "buckets"])
def test_output_and_gradients_equal_softmax_of_each_cell(lengths, kind):
    inputs = inputs_of(lengths)
    output, expected = attend(inputs, lengths, kind), softmax_by_cell(*inputs, lengths)
    torch.testing.assert_close(output.double(), expected, atol=1e-5, rtol=1e-5)
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad((output * direction).sum(), inputs)
    wanted = torch.autograd.grad((expected * direction).sum(), inputs)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_gives_the_same_output(lengths):
    """Forward only: flex attention has no backward pass on a CPU."""
    inputs = [tensor.detach() for tensor in inputs_of(lengths)]
    output, expected = attend(inputs, lengths, "flex"), softmax_by_cell(*inputs, lengths)
    torch.testing.assert_close(output.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_the_document_mask_is_the_one_found_pair_by_pair(lengths):
    cu_seqlens, n_tokens = boundaries(lengths), sum(lengths)
    cell_of = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    ours = document_mask(cu_seqlens, n_tokens)
    theirs = create_block_mask(
        lambda _b, _h, q, k: cell_of[q] == cell_of[k], None, None, n_tokens, n_tokens, device="cpu"
    )
    assert torch.equal(ours.to_dense(), theirs.to_dense())
    for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


def test_buckets_waste_a_third_at_most():
    for length in (1, 64, 65, 96, 97, 129, 1000, 2049, 4096):
        size = layouts._bucket_size(length)
        assert length <= size <= max(64, length * 3 // 2)


def random_batch(vocabulary, seed):
    """Cells of lengths from 2 to the vocabulary's longest, 30 % of the genes masked."""
    generator = np.random.default_rng(seed)
    longest = vocabulary.max_length
    lengths = [*generator.integers(2, longest + 1, 6), longest]
    cells = [generator.integers(vocabulary.n_special, len(vocabulary), length) for length in lengths]
    labels = [np.where(generator.random(len(cell)) < 0.3, cell, -100) for cell in cells]
    return pack(cells, labels=labels)


def filled(batch, vocabulary):
    shape = BatchShape(n_tokens=512, n_cells=64, n_masked=192, max_seqlen=vocabulary.max_length)
    return fill(batch, shape, filler=vocabulary.token_of["<pad>"])


def padded_logits(model, batch):
    """Plain BERT with SDPA, an attention mask and padding, as everybody runs it; real tokens only."""
    lengths = batch.cell_lengths.tolist()
    starts = batch.cu_seqlens.tolist()
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = batch.input_ids[0, starts[row] : starts[row] + length]
        mask[row, :length] = 1
    logits = model(input_ids=ids, attention_mask=mask).logits
    return logits[mask.bool()]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize(
    "kind", ["segments", "buckets", pytest.param("segments, one shape", marks=pytest.mark.slow)]
)
def test_packed_equals_padded_in_logits_loss_and_gradients(tiny_vocabulary, shape, kind):
    batch = random_batch(tiny_vocabulary, seed=len(kind))
    ours = new_model(shape, tiny_vocabulary, seed=1).eval()
    plain = new_model(shape, tiny_vocabulary, seed=1).eval()
    plain.set_attn_implementation("sdpa")
    expected = padded_logits(plain, batch)
    answers = batch.labels[0]
    n_masked = int((answers != -100).sum())
    wanted = nn.functional.cross_entropy(expected, answers)
    wanted.backward()

    given = filled(batch, tiny_vocabulary) if "one shape" in kind else batch
    layout = make_layout(kind.partition(",")[0], given.cu_seqlens, given.n_tokens)
    logits = ours.cls(packed_states(ours, given, layout=layout))[0, : batch.n_tokens]
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    loss, counted = masked_language_loss(ours, given, layout)
    (loss / n_masked).backward()
    assert int(counted) == n_masked
    torch.testing.assert_close(loss / n_masked, wanted, atol=1e-5, rtol=1e-5)
    for (name, weight), theirs in zip(ours.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(weight.grad, theirs.grad, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # inductor's own warnings
def test_the_compiled_step_equals_the_eager_one_and_compiles_once(tiny_vocabulary):
    from torch._dynamo.testing import CompileCounterWithBackend

    model = new_model(SHAPES["deep"], tiny_vocabulary, seed=1).eval()
    counter = CompileCounterWithBackend("inductor")
    torch._dynamo.reset()
    step = torch.compile(masked_language_loss, fullgraph=True, dynamic=False, backend=counter)
    for seed in range(5):
        batch = random_batch(tiny_vocabulary, seed)
        loss, n_masked = masked_language_loss(model, batch)
        (loss / n_masked).backward()
        wanted = {name: weight.grad.clone() for name, weight in model.named_parameters()}
        model.zero_grad()
        compiled, counted = step(model, filled(batch, tiny_vocabulary))
        (compiled / counted).backward()
        torch.testing.assert_close(compiled / counted, loss / n_masked, atol=1e-5, rtol=1e-5)
        for name, weight in model.named_parameters():
            torch.testing.assert_close(weight.grad, wanted[name], atol=1e-5, rtol=1e-5, msg=name)
        model.zero_grad()
    assert counter.frame_count == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_flex_attention_compiles_once_over_changing_layouts(tiny_vocabulary):
    """The block mask is made outside the compiled part, as in training. On a CPU
    forward only, and not by inductor, whose CPU kernel fails on queries that are views."""
    from torch._dynamo.testing import CompileCounterWithBackend

    model = new_model(SHAPES["wide"], tiny_vocabulary, seed=1).eval()
    counter = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    step = torch.compile(masked_language_loss, fullgraph=True, dynamic=False, backend=counter)
    for seed in range(3):
        batch = filled(random_batch(tiny_vocabulary, seed), tiny_vocabulary)
        layout = make_layout("flex", batch.cu_seqlens, batch.n_tokens)
        with torch.no_grad():
            expected, _ = masked_language_loss(model, batch)
            found, _ = step(model, batch, layout)
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-5)
    assert counter.frame_count == 1


def test_a_measurement_leaves_out_what_does_not_run():
    seconds = measure_layouts(
        ["segments", "buckets", "flex", "varlen"], boundaries([30, 20]),
        n_heads=2, head_size=16, dtype=torch.float32, repeats=1,
    )  # fmt: skip
    assert set(seconds) == {"segments", "buckets"}
    assert all(value > 0 for value in seconds.values())


def test_what_cannot_train_is_refused():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    with pytest.raises(ValueError, match=r"'varlen' cannot train on cpu in fp32; usable there: buckets, seg"):
        require_trainable("varlen", cpu, torch.float32, compiled=False)
    with pytest.raises(ValueError, match="'flex' cannot train on cpu"):
        require_trainable("flex", cpu, torch.float32, compiled=False)
    with pytest.raises(ValueError, match="'varlen' cannot train on cuda in fp32"):
        require_trainable("varlen", cuda, torch.float32, compiled=True)
    with pytest.raises(ValueError, match="cannot be compiled"):
        require_trainable("buckets", cpu, torch.float32, compiled=True)
    for kind in ("varlen", "flex"):
        require_trainable(kind, cuda, torch.bfloat16, compiled=True)
    require_trainable("segments", cpu, torch.float32, compiled=True)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["varlen", "flex", "buckets", "segments"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 4e-2)])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_cuda_kernels_equal_softmax_of_each_cell(kind, dtype, tolerance, lengths):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if kind == "varlen" and dtype == torch.float32:
        pytest.skip("the variable-length kernel has half precision only")
    inputs = inputs_of(lengths, dtype, device="cuda")
    output, expected = attend(inputs, lengths, kind), softmax_by_cell(*inputs, lengths)
    torch.testing.assert_close(output.double(), expected, atol=tolerance, rtol=tolerance)
    found = torch.autograd.grad(output.double().square().sum(), inputs)
    wanted = torch.autograd.grad(expected.square().sum(), inputs)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=4 * tolerance, rtol=4 * tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["varlen", "flex"])
@pytest.mark.filterwarnings("ignore")
def test_the_compiled_cuda_step_compiles_once(tiny_vocabulary, kind):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    from torch._dynamo.testing import CompileCounterWithBackend

    model = new_model(SHAPES["wide"], tiny_vocabulary, seed=1).eval().cuda()
    counter = CompileCounterWithBackend("inductor")
    torch._dynamo.reset()
    step = torch.compile(masked_language_loss, fullgraph=True, dynamic=False, backend=counter)
    for seed in range(4):
        batch = filled(random_batch(tiny_vocabulary, seed), tiny_vocabulary).to("cuda")
        layout = make_layout(kind, batch.cu_seqlens, batch.n_tokens)
        with torch.autocast("cuda", torch.bfloat16):
            found, n_masked = step(model, batch, layout)
            expected, _ = masked_language_loss(model, batch)
        (found / n_masked).backward()
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=1.0)
    assert counter.frame_count == 1
