"""Packed attention against plain softmax attention of each cell alone."""

import pytest
import torch
from torch import nn

from geneformer_grn.model import attention, attention_cpu
from geneformer_grn.model.attention import attend_packed

LENGTHS = {
    "mixed": [3, 7, 7, 1, 5],
    "equal": [6, 6, 6],
    "one": [9],
    "empty cells between and behind": [4, 0, 2, 2, 0, 0],
}


def packed(lengths, dtype=torch.float32, heads=3, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    n_tokens = sum(lengths)
    query, key, value = (
        torch.randn(1, n_tokens, heads, size, generator=generator, dtype=torch.float64)
        .to(dtype)
        .transpose(1, 2)
        .requires_grad_()
        for _ in range(3)
    )
    cu_seqlens = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    return query, key, value, cu_seqlens


def softmax_by_cell(query, key, value, cu_seqlens):
    """The textbook formula, one cell at a time."""
    parts = []
    for left, right in zip(cu_seqlens[:-1].tolist(), cu_seqlens[1:].tolist(), strict=True):
        q, k, v = (tensor[0, :, left:right] for tensor in (query, key, value))
        weights = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, dim=-1)
        parts.append((weights @ v).transpose(0, 1))
    return torch.cat(parts)[None]


def attend(query, key, value, cu_seqlens, **kwargs):
    longest = int(cu_seqlens.diff().max())
    options = {"cu_seqlens": cu_seqlens, "max_seqlen": longest} | kwargs
    return attend_packed(nn.Identity(), query, key, value, None, **options)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 4e-2)]
)
def test_output_and_gradients_equal_softmax_of_each_cell(lengths, dtype, tolerance):
    query, key, value, cu_seqlens = packed(lengths, dtype)
    output, weights = attend(query, key, value, cu_seqlens)
    exact = [tensor.detach().double().requires_grad_() for tensor in (query, key, value)]
    expected = softmax_by_cell(*exact, cu_seqlens)
    assert weights is None
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), expected, atol=tolerance, rtol=tolerance)
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = torch.autograd.grad((output.double() * direction).sum(), (query, key, value))
    wanted = torch.autograd.grad((expected * direction).sum(), exact)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=2 * tolerance, rtol=2 * tolerance)


@pytest.mark.parametrize("scores", [1, 3 * 7 * 16, 3 * 16 * 16 * 2, 1 << 20])
@pytest.mark.parametrize("lengths", [[7, 7, 7, 7, 40], [33, 16, 16, 16], [2, 2, 0, 1]])
def test_products_in_parts_are_softmax_of_each_cell(monkeypatch, lengths, scores):
    """In float64 too, where nothing is rounded: one cell's queries in parts, several short cells at once."""
    monkeypatch.setattr(attention_cpu, "SCORES", scores)
    monkeypatch.setattr(attention_cpu, "by_products", lambda query: True)
    query, key, value, cu_seqlens = packed(lengths, torch.float64)
    output, _ = attend(query, key, value, cu_seqlens)
    expected = softmax_by_cell(query, key, value, cu_seqlens)
    torch.testing.assert_close(output, expected, atol=1e-12, rtol=1e-12)
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = torch.autograd.grad((output * direction).sum(), (query, key, value))
    wanted = torch.autograd.grad((expected * direction).sum(), (query, key, value))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


def test_autocast_does_not_change_products():
    query, key, value, cu_seqlens = packed([5, 5, 30], torch.bfloat16)
    plain, _ = attend(query, key, value, cu_seqlens)
    with torch.autocast("cpu", torch.bfloat16):
        cast, _ = attend(query, key, value, cu_seqlens)
    assert torch.equal(plain, cast)


def test_the_loop_for_other_devices_gives_the_same():
    query, key, value, cu_seqlens = packed([4, 4, 0, 9], torch.float64)
    rows = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
    expected = softmax_by_cell(query, key, value, cu_seqlens)[0]
    torch.testing.assert_close(attention._attend_segments(*rows, cu_seqlens), expected)


def test_the_operator_is_registered_as_torch_wants_it():
    query, key, value, cu_seqlens = packed([4, 2, 2])
    rows = tuple(tensor[0].transpose(0, 1).detach().requires_grad_() for tensor in (query, key, value))
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(attention_cpu.packed_attention_cpu, (*rows, cu_seqlens), test_utils=checks)


@pytest.mark.parametrize("missing", ["cu_seqlens", "max_seqlen"])
def test_a_batch_without_cell_boundaries_is_refused(missing):
    query, key, value, cu_seqlens = packed([4, 2])
    options = {"cu_seqlens": cu_seqlens, "max_seqlen": 4}
    del options[missing]
    with pytest.raises(ValueError, match="would attend to each other"):
        attend_packed(nn.Identity(), query, key, value, None, **options)


def test_dropout_masks_rows_and_scalings_it_cannot_honour_are_refused():
    query, key, value, cu_seqlens = packed([4, 2])
    with pytest.raises(ValueError, match=r"asks for 0\.1; set config\.attention_probs_dropout_prob to 0"):
        attend(query, key, value, cu_seqlens, dropout=0.1)
    with pytest.raises(ValueError, match=r"scales by head_size\*\*-0\.5, the model asks for 1\.0"):
        attend(query, key, value, cu_seqlens, scaling=1.0)
    two_rows = [tensor.expand(2, -1, -1, -1) for tensor in (query, key, value)]
    with pytest.raises(ValueError, match="got 2 rows"):
        attend(*two_rows, cu_seqlens)
    with pytest.raises(ValueError, match="and a mask"):
        attend_packed(
            nn.Identity(), query, key, value, torch.zeros(1, 1, 6, 6), cu_seqlens=cu_seqlens, max_seqlen=4
        )


def test_boundaries_that_do_not_cover_the_batch_are_refused():
    query, key, value, cu_seqlens = packed([4, 2])
    with pytest.raises(ValueError, match="runs from 0 to 4, the batch has 6 tokens"):
        attend(query, key, value, cu_seqlens[:-1])


def test_capture_receives_each_cell_once_with_its_own_queries_and_keys():
    query, key, value, cu_seqlens = packed([4, 0, 2])
    calls = []

    class Recorder:
        def add(self, layer_index, segment, query, key, scaling):
            calls.append((layer_index, segment, query, key, scaling))

    attend(query, key, value, cu_seqlens, capture=Recorder(), layer_index=5)
    assert [(layer, segment) for layer, segment, *_ in calls] == [(5, 0), (5, 2)]
    torch.testing.assert_close(calls[1][2], query[0, :, 4:])
    torch.testing.assert_close(calls[1][3], key[0, :, 4:])
    assert calls[0][4] == pytest.approx(8**-0.5)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 4e-2)])
def test_cuda_equals_softmax_of_each_cell(dtype, tolerance):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    query, key, value, cu_seqlens = packed([3, 70, 70, 1, 5], dtype)
    moved = [tensor.detach().cuda().requires_grad_() for tensor in (query, key, value)]
    output, _ = attend(*moved, cu_seqlens.cuda())
    exact = [tensor.detach().double().requires_grad_() for tensor in (query, key, value)]
    expected = softmax_by_cell(*exact, cu_seqlens)
    torch.testing.assert_close(output.double().cpu(), expected, atol=tolerance, rtol=tolerance)
    found = torch.autograd.grad(output.double().square().sum(), moved)
    wanted = torch.autograd.grad(expected.square().sum(), exact)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours.double().cpu(), theirs, atol=4 * tolerance, rtol=4 * tolerance)
