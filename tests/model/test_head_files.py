"""Folders of fine-tuned models: predictions survive, and Hugging Face loads what promises it, without us."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModel

from geneformer_grn.cells.packing import pack
from geneformer_grn.cells.ranking import RankedCells, model_input
from geneformer_grn.model.encoder import load_encoder
from geneformer_grn.model.fingerprint import checkpoint_fingerprint, encoder_fingerprint
from geneformer_grn.model.head_files import is_finetuned, load_finetuned, read_record, save_finetuned
from geneformer_grn.model.heads import Finetuned, HeadSpec, TaskHead

FOREIGN = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "geneformer_grn":
            raise ImportError("this process must not see the package")

sys.meta_path.insert(0, Refuse())
import json
import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

for folder, kind in zip(sys.argv[1::2], sys.argv[2::2]):
    cls = {"sequence": AutoModelForSequenceClassification, "token": AutoModelForTokenClassification}[kind]
    model, loading = cls.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"], loading
    assert AutoTokenizer.from_pretrained(folder).cls_token_id == 2
    cells = json.load(open(folder + "/../cells.json"))
    longest = max(map(len, cells))
    ids = torch.tensor([cell + [0] * (longest - len(cell)) for cell in cells])
    mask = torch.tensor([[1] * len(cell) + [0] * (longest - len(cell)) for cell in cells])
    with torch.no_grad():
        logits = model.eval()(input_ids=ids, attention_mask=mask).logits
    if kind == "token":
        logits = torch.cat([rows[: len(cell)] for rows, cell in zip(logits, cells)])
    np.save(folder + ".npy", logits.numpy())
    print(json.dumps([model.config.id2label, model.config.problem_type]))
"""


@pytest.fixture(scope="module")
def ranked(tiny_vocabulary) -> RankedCells:
    generator = np.random.default_rng(0)
    lengths = np.array([7, 30, 18, 46])
    genes = np.arange(tiny_vocabulary.n_special, len(tiny_vocabulary))
    tokens = np.concatenate([generator.choice(genes, length, replace=False) for length in lengths])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return RankedCells(tokens.astype(np.uint16), offsets, np.ones(4))


def make_model(encoder, *specs: HeadSpec, max_length: int | None = None) -> Finetuned:
    torch.manual_seed(3)
    heads = nn.ModuleList(TaskHead(spec, encoder.hidden_size) for spec in specs).eval()
    for head in heads:
        head.centre.normal_()
        head.scale.uniform_(0.5, 2.0)
    return Finetuned(encoder, heads, specs, max_length)


def test_hugging_face_predicts_the_same_without_this_package(tiny_encoder, ranked, tmp_path):
    classes = ("B cell", "T cell", "monocyte")
    wanted = {
        "types": ("sequence", HeadSpec("cell_type", "cell", "classification", classes, "cls")),
        "age": ("sequence", HeadSpec("age", "cell", "regression", (), "cls")),
        "genes": ("token", HeadSpec("role", "gene", "classification", ("plain", "regulator"))),
    }
    inputs = [model_input(ranked.cell(cell), tiny_encoder.vocabulary) for cell in range(4)]
    (tmp_path / "cells.json").write_text(json.dumps([ids.tolist() for ids in inputs]))
    models, given = {}, []
    for name, (kind, spec) in wanted.items():
        models[name] = make_model(tiny_encoder, spec)
        save_finetuned(models[name], tmp_path / name)
        given += [str(tmp_path / name), kind]
    command = [sys.executable, "-I", "-c", FOREIGN, *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = dict(zip(wanted, map(json.loads, done.stdout.splitlines()), strict=True))
    for name, model in models.items():
        ours = model.outputs(pack(inputs))[model.specs[0].name].detach().numpy()
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), ours, atol=1e-5)
    assert told["types"] == [dict(zip("012", classes, strict=True)), "single_label_classification"]
    assert told["age"] == [{"0": "age"}, "regression"]
    assert told["genes"][0] == {"0": "plain", "1": "regulator"}


@pytest.mark.parametrize(
    "specs",
    [
        (HeadSpec("t", "cell", "classification", ("a", "b"), "cls"),),
        (HeadSpec("dose", "cell", "regression", (), "cls"),),
        (HeadSpec("role", "gene", "classification", ("a", "b", "c")),),
        (HeadSpec("score", "gene", "regression"),),
        (HeadSpec("t", "cell", "classification", ("a", "b"), "mean"),),
        (
            HeadSpec("cell.type", "cell", "classification", ("a", "b"), "attention"),
            HeadSpec("forward", "cell", "ordinal", ("low", "mid", "high"), "attention"),
            HeadSpec("role", "gene", "classification", ("a", "b")),
        ),
    ],
)
def test_a_folder_predicts_what_was_saved(tiny_encoder, ranked, tmp_path, specs):
    model = make_model(tiny_encoder, *specs, max_length=20)
    save_finetuned(model, tmp_path / "m", record={"best_epoch": 3})
    read = load_finetuned(tmp_path / "m", device="cpu")
    assert read.specs == specs
    assert read.max_length == 20
    assert is_finetuned(tmp_path / "m")
    assert read_record(tmp_path / "m") == {"best_epoch": 3}
    before, after = model.predict(ranked), read.predict(ranked)
    for spec in specs:
        np.testing.assert_allclose(after[spec.name], before[spec.name], atol=1e-5)
    assert encoder_fingerprint(read.encoder.model) == checkpoint_fingerprint(tmp_path / "m")
    assert encoder_fingerprint(read.encoder.model) == encoder_fingerprint(tiny_encoder.model)


def test_other_heads_leave_a_plain_encoder(tiny_encoder, ranked, tmp_path):
    save_finetuned(make_model(tiny_encoder, HeadSpec("t", "cell", "regression")), tmp_path / "m")
    encoder = load_encoder(tmp_path / "m", device="cpu")  # embeds and perturbs as any checkpoint does
    assert encoder_fingerprint(encoder.model) == encoder_fingerprint(tiny_encoder.model)
    plain = AutoModel.from_pretrained(tmp_path / "m", add_pooling_layer=False)
    ids = model_input(ranked.cell(0), tiny_encoder.vocabulary)
    theirs = plain.eval()(input_ids=torch.from_numpy(ids)[None]).last_hidden_state[0].detach()
    torch.testing.assert_close(theirs, encoder.hidden_states(pack([ids]), encoder_layer=0), atol=1e-5, rtol=0)


def test_a_fingerprint_sees_every_weight_of_the_encoder_and_no_head(tiny_checkpoint):
    model = load_encoder(tiny_checkpoint, device="cpu").model
    start = encoder_fingerprint(model)
    assert start == checkpoint_fingerprint(tiny_checkpoint)
    with torch.no_grad():
        model.cls.predictions.bias.add_(1.0)
        assert encoder_fingerprint(model) == start
        seen = {start}
        for weight in model.bert.parameters():
            weight.view(-1)[0] += 1e-3
            seen.add(encoder_fingerprint(model))
    assert len(seen) == 1 + len(list(model.bert.parameters()))


def test_what_is_missing_or_damaged_is_named(tiny_encoder, tiny_checkpoint, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"heads\.json is missing"):
        load_finetuned(tiny_checkpoint, device="cpu")
    assert not is_finetuned(tiny_checkpoint)
    save_finetuned(make_model(tiny_encoder, HeadSpec("t", "cell", "regression")), tmp_path / "m")
    with pytest.raises(ValueError, match="precision 'fp8' is unknown"):
        load_finetuned(tmp_path / "m", precision="fp8")
    (tmp_path / "m" / "heads.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"the heads in .* cannot be loaded"):
        load_finetuned(tmp_path / "m", device="cpu")
    (tmp_path / "m" / "heads.json").write_text("{}")
    with pytest.raises(ValueError, match=r"heads\.json is damaged"):
        load_finetuned(tmp_path / "m", device="cpu")
    shutil.rmtree(tmp_path / "m")
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors"):
        checkpoint_fingerprint(tmp_path)
