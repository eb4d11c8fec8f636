from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from geneformer_grn.cells.batches import MaskSettings, PackedBatch, mask_cell, pack
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.model.attention_cpu import by_products
from geneformer_grn.model.encoder import ModelConfig, new_model
from geneformer_grn.model.objectives import masked_language_loss
from geneformer_grn.training.config import ModelSection, OptimSection, read_config
from geneformer_grn.training.cost import estimate, memory_by_part, n_parameters, operations_per_token
from geneformer_grn.training.optimizer import make_optimizer

REFERENCE = {  # recipe: (vocabulary, positions)
    "v1-10m": (25_426, 2_048),
    "v2-104m": (20_275, 4_096),
    "v2-316m": (20_275, 4_096),
}


@pytest.mark.parametrize(("recipe", "sizes"), REFERENCE.items())
def test_parameters_are_those_of_the_real_models(repository, recipe: str, sizes: tuple[int, int]):
    """A `BertForMaskedLM` of the recipe's shape, on the meta device, counts its own weights."""
    shape = read_config(repository / "pretrain" / "configs" / f"{recipe}.toml").model
    config = BertConfig(
        vocab_size=sizes[0], max_position_embeddings=sizes[1], hidden_size=shape.hidden_size,
        num_hidden_layers=shape.n_layers, num_attention_heads=shape.n_heads,
        intermediate_size=shape.ffn_size,
    )  # fmt: skip
    with torch.device("meta"):
        model = BertForMaskedLM(config)
    assert n_parameters(shape, *sizes) == sum(weight.numel() for weight in model.parameters())


def test_operations_by_hand():
    shape = ModelSection(n_layers=2, hidden_size=8, n_heads=2, ffn_size=16)
    # A layer: four 8x8 and two 8x16 products at 2 operations an element, and scores and values on 10 keys.
    layer = 2 * (4 * 64 + 2 * 128) + 2 * (2 * 10 * 8)
    head = 2 * (64 + 8 * 100) * 0.25
    found = operations_per_token(shape, n_tokens=100, mean_length=10.0, mask_rate=0.25)
    assert found == 3 * (2 * layer + head)


@pytest.fixture(scope="module")
def batch(tiny_vocabulary: GeneVocabulary) -> PackedBatch:
    generator = np.random.default_rng(0)
    genes = range(tiny_vocabulary.n_special, len(tiny_vocabulary))
    cells = [
        mask_cell(
            generator.choice(genes, 32, replace=False), tiny_vocabulary, MaskSettings(rate=0.2),
            seed=0, epoch=0, cell=cell,
        )
        for cell in range(16)
    ]  # fmt: skip
    return pack([ids for ids, _ in cells], labels=[labels for _, labels in cells])


def kept_by_autograd(
    shape: ModelSection, vocabulary: GeneVocabulary, batch: PackedBatch, precision: str
) -> int:
    """Bytes of the distinct tensors that the forward pass keeps, other than weights and the batch itself."""
    model = new_model(ModelConfig(**shape.shape), vocabulary, seed=0)
    batch_tensors = [value for value in vars(batch).values() if isinstance(value, torch.Tensor)]
    known = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *batch_tensors)}
    kept: dict[int, torch.Tensor] = {}  # holding the tensor keeps its address from being used again

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in known:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
    ):
        masked_language_loss(model, batch)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_are_what_autograd_keeps(tiny_vocabulary, batch, activation: str, precision: str):
    """The difference that two layers make, so that the head, counted at its peak, drops out."""
    wide = {"hidden_size": 32, "n_heads": 4, "ffn_size": 96, "dropout": 0.0, "activation": activation}
    found, planned = [], []
    for n_layers in (1, 3):
        shape = ModelSection(n_layers=n_layers, **wide)
        parts = memory_by_part(
            shape, n_tokens=len(tiny_vocabulary), n_positions=tiny_vocabulary.max_length,
            token_budget=batch.n_tokens, mask_rate=0.2, precision=precision,
        )  # fmt: skip
        planned.append(parts["activations"] + parts["bf16_weights"])
        found.append(kept_by_autograd(shape, tiny_vocabulary, batch, precision))
    # Planned for a GPU, whose kernels keep a log-sum-exp per query and head; products on a CPU keep none.
    products = by_products(torch.empty(0, dtype=torch.bfloat16 if precision == "bf16" else torch.float32))
    spared = 2 * 4 * wide["n_heads"] * batch.n_tokens if products else 0
    assert planned[1] - planned[0] - spared == found[1] - found[0]
    # What is left of one layer's model is the head; at its peak it holds at least what it keeps.
    assert planned[0] < found[0] < planned[0] + parts["head"]


def test_memory_of_weights_and_checkpointing_by_hand():
    shape = ModelSection(n_layers=3, hidden_size=8, n_heads=2, ffn_size=16, dropout=0.5, activation="relu")
    parts = memory_by_part(
        shape, n_tokens=50, n_positions=20, token_budget=10, mask_rate=0.2, precision="fp32"
    )
    weights = n_parameters(shape, 50, 20)
    assert parts["weights"] == parts["gradients"] == parts["ddp_buckets"] == 4 * weights
    assert parts["adamw_state"] == 8 * weights
    assert parts["bf16_weights"] == 0
    # fp32: eight tensors of width 8, one of 16, two norms' statistics, 2 heads' log-sum-exp, 2 masks of bytes
    layer = 4 * (8 * 8 + 16) + 2 * 8 + 4 * 2 + 2 * 8
    embedding = 4 * 8 + 16 + 8
    assert parts["activations"] == 10 * (3 * layer + embedding)
    assert parts["activations_checkpointed"] == 10 * (3 * 4 * 8 + layer + embedding)
    # Two masked tokens: their logits twice, three states of the transform, the gradient of the head's matrix.
    assert parts["head"] == 2 * 50 * 8 + 2 * 12 * 8 + 50 * (4 * 8 + 4)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_moments_are_what_the_optimizer_keeps(tiny_vocabulary, batch, kind: str):
    shape = ModelSection(n_layers=2, hidden_size=16, n_heads=2, ffn_size=24)
    model = new_model(ModelConfig(**shape.shape), tiny_vocabulary, seed=0)
    optimizer = make_optimizer(model, OptimSection(optimizer=kind), device=torch.device("cpu"))
    masked_language_loss(model, batch)[0].backward()
    optimizer.step()
    kept: list[torch.Tensor] = []

    def collect(state: object) -> None:
        for value in state.values() if isinstance(state, dict) else ():
            collect(value)
            if isinstance(value, torch.Tensor) and value.ndim > 0:
                kept.append(value)

    collect(optimizer.state_dict()["state"])
    parts = memory_by_part(
        shape, n_tokens=len(tiny_vocabulary), n_positions=tiny_vocabulary.max_length, token_budget=1,
        mask_rate=0.2, precision="fp32", optimizer=kind,
    )  # fmt: skip
    assert parts["adamw_state"] == sum(4 * moment.numel() for moment in kept)


def test_shards_by_hand():
    shape = ModelSection(n_layers=4, hidden_size=8, n_heads=2, ffn_size=16)
    sizes = {
        "n_tokens": 50, "n_positions": 20, "token_budget": 10, "mask_rate": 0.2, "precision": "bf16",
    }  # fmt: skip
    whole, spread = memory_by_part(shape, **sizes), memory_by_part(shape, **sizes, shards=4)
    for part in ("weights", "gradients", "adamw_state"):
        assert spread[part] == pytest.approx(whole[part] / 4, abs=1)
    for part in ("activations", "activations_checkpointed", "bf16_weights", "head"):
        assert spread[part] == whole[part]
    assert (whole["gathered"], spread["ddp_buckets"]) == (0, 0)
    # Embeddings of 50 genes, 20 positions and 2 types, their norm and the head (its matrix is the genes').
    others = 72 * 8 + 2 * 8 + (64 + 8) + 2 * 8 + 50
    layer = 4 * (64 + 8) + 2 * 8 * 16 + 16 + 8 + 4 * 8
    assert spread["gathered"] == 2 * 4 * (others + 2 * layer)


@pytest.mark.parametrize(
    ("changes", "processes", "total"),
    [
        ((), 1, {"activations"}),
        ((), 2, {"activations", "ddp_buckets"}),
        (("run.activation_checkpointing=true",), 1, {"activations_checkpointed"}),
        (("run.sharding=fsdp2",), 4, {"activations", "gathered"}),
        (("optim.optimizer=muon",), 1, {"activations"}),
    ],
)
def test_the_total_is_what_the_config_asks_for(make_config, changes, processes: int, total: set[str]):
    config = make_config(*changes)
    plan = {"vocabulary": 20_000, "positions": 2_048, "pflop": 1.0, "processes": processes}
    memory = estimate(config, plan)["memory_gb"]
    always = {"weights", "gradients", "adamw_state", "bf16_weights", "head"}
    assert memory["total"] == pytest.approx(sum(memory[part] for part in always | total), rel=0.02)
    if "muon" in str(changes):
        assert memory["adamw_state"] < 2 * memory["weights"]
    if "fsdp2" in str(changes):
        assert memory["weights"] == pytest.approx(estimate(make_config(), plan)["memory_gb"]["weights"] / 4,
                                                  rel=0.02)  # fmt: skip


def test_hours_follow_from_operations_and_the_assumed_share(make_config):
    config = make_config("run.precision=bf16")
    plan = {"vocabulary": 65, "positions": 48, "pflop": 989.4e12 * 0.25 * 7200 / 1e15}
    found = estimate(config, plan, mfu=0.25)
    assert found["hours_1_h100"] == pytest.approx(2.0)
    assert found["hours_8_h100"] == pytest.approx(0.25)
    assert (found["mfu"], found["peak_tflops"]) == (0.25, pytest.approx(989.4))
    memory = found["memory_gb"]
    parts = ("weights", "gradients", "adamw_state", "bf16_weights", "head")
    fixed = sum(memory[part] for part in parts)
    assert memory["total"] == pytest.approx(fixed + memory["activations"], rel=0.02)
    assert memory["total_checkpointed"] == pytest.approx(fixed + memory["activations_checkpointed"], rel=0.02)


@pytest.mark.parametrize("mfu", [0.0, -0.1, 1.1])
def test_a_share_that_is_none_is_refused(make_config, mfu: float):
    with pytest.raises(ValueError, match="share of the peak"):
        estimate(make_config(), {"vocabulary": 65, "positions": 48, "pflop": 1.0}, mfu=mfu)


def test_a_plan_counts_as_the_log_does(make_config):
    """The log's model FLOPs of one batch, against the plan's operations per token."""
    from geneformer_grn.training.flops import model_flops

    shape = make_config().model
    config = BertConfig(
        vocab_size=65, hidden_size=shape.hidden_size, num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads, intermediate_size=shape.ffn_size,
    )  # fmt: skip
    lengths = np.array([10, 30, 60])
    mean_length = float((lengths**2).sum() / lengths.sum())
    planned = operations_per_token(shape, n_tokens=65, mean_length=mean_length, mask_rate=0.2)
    assert planned * 100 == pytest.approx(model_flops(config, lengths, n_masked=20))
