"""Checkpoint folders: complete, loadable by anyone, and refused with a reason where something is wrong."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from geneformer_grn.model.encoder import ModelConfig, load_encoder, new_model, save_checkpoint

CONFIG = ModelConfig(n_layers=1, hidden_size=16, n_heads=2, ffn_size=32)

FOREIGN = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "geneformer_grn":
            raise ImportError("this process must not see the package")

sys.meta_path.insert(0, Refuse())
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

folder, wrapped = sys.argv[1], sys.argv[2] == "True"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForMaskedLM.from_pretrained(folder)
assert model.dtype == torch.float32, model.dtype
text = "ENSG00000000001 <mask> ENSG00000000003"
ids = tokenizer(text)["input_ids"]
n_special = 5 if wrapped else 2
genes = [n_special, 1, n_special + 2]
assert ids == ([2, *genes, 3] if wrapped else genes), ids
assert len(tokenizer(" ".join(["ENSG00000000002"] * 99), truncation=True)["input_ids"]) == 48
if wrapped:
    assert tokenizer(" ".join(["ENSG00000000002"] * 99), truncation=True)["input_ids"][-1] == 3
    assert tokenizer("TP53")["input_ids"] == [2, 4, 3]
assert tokenizer.mask_token == "<mask>" and tokenizer.pad_token_id == 0
answers = pipeline("fill-mask", model=folder)(text)
assert len(answers) == 5 and "ENSG" in " ".join(answer["token_str"] for answer in answers), answers
"""


@pytest.mark.parametrize("setting", ["default", "v1"])
def test_hugging_face_loads_it_without_this_package(setting, tiny_vocabulary, tmp_path):
    from dataclasses import replace

    vocabulary = tiny_vocabulary
    if setting == "v1":  # pad and mask only, no special tokens around a cell
        keep = [0, 1, *range(vocabulary.n_special, len(vocabulary))]
        columns = ("ensembl_ids", "symbols", "medians", "is_regulator")
        vocabulary = replace(
            vocabulary, setting="v1", **{name: getattr(vocabulary, name)[keep] for name in columns}
        )
    save_checkpoint(new_model(CONFIG, vocabulary, seed=0), vocabulary, tmp_path / "m", dtype="float16")
    command = [sys.executable, "-I", "-c", FOREIGN, str(tmp_path / "m"), str(setting == "default")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_saved_and_loaded_are_equal(tiny_vocabulary, tmp_path):
    model = new_model(CONFIG, tiny_vocabulary, seed=0)
    save_checkpoint(model, tiny_vocabulary, tmp_path / "m", extra_files={"note.txt": "hello"})
    loaded = load_encoder(tmp_path / "m", device="cpu")
    assert loaded.vocabulary.fingerprint == tiny_vocabulary.fingerprint
    assert not loaded.model.training
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(loaded.model.state_dict()[name], weight, rtol=0, atol=0)
    names = {path.name for path in (tmp_path / "m").iterdir()}
    assert names == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "genes.tsv",
        "vocabulary.json", "note.txt",
    }  # fmt: skip
    text = (tmp_path / "m" / "config.json").read_text()
    assert "geneformer_grn" not in text
    assert str(tmp_path) not in text
    assert json.loads(text)["dtype"] == "float32"
    stored = load_file(tmp_path / "m" / "model.safetensors")
    assert "cls.predictions.decoder.weight" not in stored  # tied: stored once
    assert sum(weight.numel() for weight in stored.values()) == loaded.n_parameters


def test_half_precision_files_load_as_float32(tiny_vocabulary, tmp_path):
    model = new_model(CONFIG, tiny_vocabulary, seed=0)
    save_checkpoint(model, tiny_vocabulary, tmp_path / "m", dtype="float16")
    loaded = load_encoder(tmp_path / "m", device="cpu").model
    weight = loaded.bert.embeddings.word_embeddings.weight
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, model.bert.embeddings.word_embeddings.weight.half().float())
    assert loaded.cls.predictions.decoder.weight is weight


def test_an_existing_folder_is_replaced_whole(tiny_vocabulary, tmp_path):
    for seed in (0, 1):
        save_checkpoint(new_model(CONFIG, tiny_vocabulary, seed=seed), tiny_vocabulary, tmp_path / "m")
    expected = new_model(CONFIG, tiny_vocabulary, seed=1).state_dict()
    loaded = load_encoder(tmp_path / "m", device="cpu").model.state_dict()
    torch.testing.assert_close(loaded, expected)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_the_seed_decides_the_weights_and_global_state_is_untouched(tiny_vocabulary):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = (new_model(CONFIG, tiny_vocabulary, seed=2).state_dict() for _ in range(2))
    torch.testing.assert_close(torch.rand(3), expected)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    other = new_model(CONFIG, tiny_vocabulary, seed=3).state_dict()
    assert not torch.equal(
        first["bert.embeddings.word_embeddings.weight"], other["bert.embeddings.word_embeddings.weight"]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 15}, "hidden_size 15 is not a multiple of n_heads 2"),
        ({"n_layers": 0}, "n_layers must be at least 1, got 0"),
        ({"activation": "sin"}, "activation 'sin' is unknown"),
        ({"dropout": 1.0}, "dropout must be in"),
    ],
)
def test_impossible_shapes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**{"n_layers": 1, "hidden_size": 16, "n_heads": 2, "ffn_size": 32} | change)


@pytest.fixture
def copy(tiny_checkpoint, tmp_path):
    return shutil.copytree(tiny_checkpoint, tmp_path / "copy")


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_folder_without_vocabulary_names_the_way_out(copy):
    (copy / "genes.tsv").unlink()
    with pytest.raises(FileNotFoundError, match="import-geneformer"):
        load_encoder(copy, device="cpu")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_without_config_or_weights_is_refused(copy, name):
    (copy / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        load_encoder(copy, device="cpu")


def test_no_such_checkpoint_is_said_without_a_download(tmp_path):
    for name in ("no-such-model", "someone/no-such-model", str(tmp_path / "nowhere" / "deep" / "er")):
        with pytest.raises(FileNotFoundError, match="nothing is downloaded"):
            load_encoder(name, device="cpu")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="a checkpoint is a folder"):
        load_encoder(tmp_path / "file", device="cpu")


def test_a_vocabulary_of_another_size_is_refused(copy):
    edit_config(copy, vocab_size=99)
    with pytest.raises(ValueError, match="has 99 tokens, the vocabulary beside it 65"):
        load_encoder(copy, device="cpu")


def test_weights_of_another_size_are_refused(copy):
    edit_config(copy, hidden_size=64)
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_encoder(copy, device="cpu")


def test_too_few_positions_are_refused(copy):
    edit_config(copy, max_position_embeddings=40)
    with pytest.raises(ValueError, match="has 40 positions, its vocabulary allows cells of 48 tokens"):
        load_encoder(copy, device="cpu")


def test_another_architecture_is_refused(copy):
    edit_config(copy, model_type="gpt2")
    with pytest.raises(ValueError, match="holds a 'gpt2' model"):
        load_encoder(copy, device="cpu")


def test_damaged_files_are_refused(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_encoder(copy, device="cpu")
    (copy / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        load_encoder(copy, device="cpu")
    (copy / "vocabulary.json").write_text("{}")
    with pytest.raises(ValueError, match=r"vocabulary in .* is damaged"):
        load_encoder(copy, device="cpu")


def test_weights_that_would_be_random_are_refused(copy):
    edit_config(copy, num_hidden_layers=3)
    with pytest.raises(ValueError, match="weights are missing"):
        load_encoder(copy, device="cpu")


def test_a_model_and_vocabulary_of_different_sizes_are_not_saved(tiny_vocabulary, tmp_path):
    model = new_model(CONFIG, tiny_vocabulary, seed=0)
    model.config.vocab_size = 7
    with pytest.raises(ValueError, match="the model has 7 tokens, the vocabulary 65"):
        save_checkpoint(model, tiny_vocabulary, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_weights_are_as_readable_as_any_new_file(tiny_vocabulary, tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        save_checkpoint(new_model(CONFIG, tiny_vocabulary, seed=0), tiny_vocabulary, tmp_path / "m")
        assert os.umask(umask) == umask, "left as it was"
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "m").iterdir()} == {mode}
