"""The head's loss in slices equals the loss of all logits at once, in value and in every gradient."""

import pytest
import torch
from torch.nn import functional

from geneformer_grn.model import head_loss as module
from geneformer_grn.model.head_loss import head_loss

IGNORED = -100


def tensors(dtype=torch.float32, n=37, d=16, n_tokens=50, seed=0):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(n, d, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(n_tokens, d, generator=generator, dtype=dtype).requires_grad_()
    bias = torch.randn(n_tokens, generator=generator, dtype=dtype).requires_grad_()
    labels = torch.randint(0, n_tokens, (n,), generator=generator)
    labels[::5] = IGNORED
    return states, weight, bias, labels


def whole(states, weight, bias, labels):
    logits = functional.linear(states, weight, bias).to(torch.promote_types(states.dtype, torch.float32))
    return functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")


@pytest.mark.parametrize("rows", [1, 5, 36, 37, 1000])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_equals_all_logits_at_once(monkeypatch, rows, dtype, close):
    monkeypatch.setitem(module.SLICE_VALUES, "cpu", rows * 50)
    states, weight, bias, labels = tensors(dtype)
    expected = torch.autograd.grad(3.0 * whole(states, weight, bias, labels), (states, weight, bias))
    loss = head_loss(states, weight, bias, labels, ignored=IGNORED)
    torch.testing.assert_close(loss, whole(states, weight, bias, labels), rtol=close, atol=0)
    found = torch.autograd.grad(3.0 * loss, (states, weight, bias))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=close, atol=close)
    assert (found[0][::5] == 0).all()


def test_gradients_are_those_of_differences():
    states, weight, bias, labels = tensors(torch.float64, n=4, d=3, n_tokens=6)
    assert torch.autograd.gradcheck(
        lambda *inputs: head_loss(*inputs, labels, ignored=IGNORED), (states, weight, bias)
    )


def test_autocast_takes_products_in_its_type(monkeypatch):
    monkeypatch.setitem(module.SLICE_VALUES, "cpu", 10 * 50)
    states, weight, bias, labels = tensors()
    exact = torch.autograd.grad(whole(states, weight, bias, labels), (states, weight, bias))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = head_loss(states, weight, bias, labels, ignored=IGNORED)
    assert loss.dtype == torch.float32
    rough = torch.autograd.grad(loss, (states, weight, bias))
    for one, other in zip(rough, exact, strict=True):
        assert one.dtype == torch.float32
        assert not torch.equal(one, other)
        assert (one - other).norm() < 0.02 * other.norm()


def test_without_gradients_and_without_labels():
    states, weight, bias, labels = tensors()
    with torch.no_grad():
        loss = head_loss(states, weight, bias, labels, ignored=IGNORED)
    torch.testing.assert_close(loss, whole(states, weight, bias, labels).detach(), rtol=1e-5, atol=0)
    nothing = head_loss(states, weight, bias, torch.full_like(labels, IGNORED), ignored=IGNORED)
    assert nothing.item() == 0
    assert all((g == 0).all() for g in torch.autograd.grad(nothing, (states, weight, bias)))


def test_frozen_states_and_large_logits():
    states, weight, bias, labels = tensors()
    frozen = (states * 300).detach()
    loss = head_loss(frozen, weight, bias, labels, ignored=IGNORED)
    (found,) = torch.autograd.grad(loss, weight)
    (expected,) = torch.autograd.grad(whole(frozen, weight, bias, labels), weight)
    assert torch.isfinite(found).all()
    assert (found - expected).norm() < 1e-4 * expected.norm()  # exponents of hundreds round in float32
