"""The arithmetic that counts, against torch's own counter."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForMaskedLM

from geneformer_grn.training.flops import flops_of_sums, measured_peak, model_flops, named_peak, peak_flops

CONFIG = BertConfig(
    hidden_size=32, num_attention_heads=2, intermediate_size=80, num_hidden_layers=3, vocab_size=211,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip


def test_equals_torchs_counter_on_cells_of_one_length():
    """Plain BERT with eager attention: no padding, and every position is asked for."""
    model = BertForMaskedLM._from_config(CONFIG, attn_implementation="eager")
    ids = torch.randint(5, 211, (4, 24))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    assert model_flops(CONFIG, [24] * 4, n_masked=96) == counter.get_total_flops()


def test_sums_of_processes_add_up():
    lengths = np.array([5, 17, 30, 2])
    whole = model_flops(CONFIG, lengths, 11)
    parts = [flops_of_sums(CONFIG, n_tokens=part.sum(), squared=(part**2).sum(), n_masked=masked)
             for part, masked in ((lengths[:1], 4), (lengths[1:], 7))]  # fmt: skip
    assert whole == pytest.approx(sum(parts), rel=1e-12)


def test_peaks_by_name():
    assert named_peak("NVIDIA H100 80GB HBM3", "bf16") == 989.4e12
    assert named_peak("NVIDIA H100 PCIe", "bf16") == 756.0e12
    assert named_peak("NVIDIA A100-SXM4-80GB", "fp32") == 19.5e12
    assert named_peak("Tesla V100-SXM2-16GB", "bf16") == 125e12
    assert named_peak("GeForce GTX 970", "bf16") is None


def test_a_cpu_is_measured():
    assert measured_peak("fp32", size=128, seconds=0.01) > 1e8
    assert peak_flops(torch.device("meta"), "fp32") is None
