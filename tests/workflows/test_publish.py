"""What is published: whole, loadable by anybody, without pickles, paths or people; nothing by chance."""

from __future__ import annotations

import json
import pickle
import shutil
import socket
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from geneformer_grn._runtime import sha256_file
from geneformer_grn.model.checkpoint import save_checkpoint
from geneformer_grn.model.encoder import ModelConfig, new_model
from geneformer_grn.workflows.publish import PublishSettings, publish, read_words, stage_repository

CORE = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "genes.tsv",
        "vocabulary.json", "README.md", "LICENSE"}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tiny_vocabulary, tmp_path_factory):
    folder = tmp_path_factory.mktemp("publish") / "tiny"
    config = ModelConfig(n_layers=1, hidden_size=16, n_heads=2, ffn_size=32)
    save_checkpoint(new_model(config, tiny_vocabulary, seed=0), tiny_vocabulary, folder)
    return folder


@pytest.fixture
def checkpoint(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "tiny")


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was touched")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def hub(monkeypatch):
    """A Hub that takes everything, and says what it was handed."""
    calls = SimpleNamespace(made=[], pushed={}, private=False)

    class Api:
        def __init__(self, token):
            calls.token = token

        def create_repo(self, name, **options):
            calls.made.append((name, options))

        def model_info(self, name):
            return SimpleNamespace(private=calls.private)

        def upload_folder(self, *, repo_id, folder_path, **options):
            calls.pushed = {path.name: path.read_bytes() for path in folder_path.iterdir()}
            return SimpleNamespace(commit_url=f"https://hub.invalid/{repo_id}/commit/1")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "secret")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return calls


def staged(checkpoint, tmp_path, card, **settings):
    return stage_repository(checkpoint, tmp_path / "staged", PublishSettings(card=card, **settings))


def test_what_is_staged_loads_without_this_package(checkpoint, tmp_path, card, tiny_vocabulary):
    (checkpoint / "notes.txt").write_text("for me only")
    np.savez(checkpoint / "rank_position.npz", counts=np.arange(3))
    files = staged(checkpoint, tmp_path, card)
    folder = tmp_path / "staged"
    assert {file["name"] for file in files} == CORE | {"rank_position.npz"}
    assert {path.name for path in folder.iterdir()} == CORE | {"rank_position.npz"}
    for file in files:
        assert file["size"] == (folder / file["name"]).stat().st_size
        assert file["sha256"] == sha256_file(folder / file["name"])
    assert (folder / "README.md").read_text() == card.read_text()
    assert "Apache License" in (folder / "LICENSE").read_text()
    theirs, ours = (AutoModelForMaskedLM.from_pretrained(path).eval() for path in (folder, checkpoint))
    tokens = torch.tensor([[2, 9, 1, 30, 3]])
    with torch.inference_mode():
        torch.testing.assert_close(theirs(tokens).logits, ours(tokens).logits)
    gene = str(tiny_vocabulary.ensembl_ids[9])
    assert AutoTokenizer.from_pretrained(folder)(gene)["input_ids"][1] == 9


def test_weights_in_several_files_go_along(checkpoint, tmp_path, card):
    model = AutoModelForMaskedLM.from_pretrained(checkpoint)
    (checkpoint / "model.safetensors").unlink()
    config = (checkpoint / "config.json").read_text()
    model.save_pretrained(checkpoint, max_shard_size="3KB")
    (checkpoint / "config.json").write_text(config)
    shards = {path.name for path in checkpoint.glob("model-*.safetensors")}
    assert len(shards) > 1
    listed = {file["name"] for file in staged(checkpoint, tmp_path, card)}
    assert listed == (CORE - {"model.safetensors"}) | shards | {"model.safetensors.index.json"}
    AutoModelForMaskedLM.from_pretrained(tmp_path / "staged")
    index = json.loads((checkpoint / "model.safetensors.index.json").read_text())
    index["weight_map"] |= {"more": "../elsewhere.safetensors"}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"names '\.\./elsewhere\.safetensors'"):
        staged(checkpoint, tmp_path, card)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "state/optimizer.PT", "harmless.txt"])
def test_pickles_are_refused_wherever_they_lie(checkpoint, tmp_path, card, name):
    path = checkpoint / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="may hold pickled code"):
        staged(checkpoint, tmp_path, card)
    assert not (tmp_path / "staged").exists()


def test_pickled_objects_in_arrays_are_refused(checkpoint, tmp_path, card):
    np.savez(checkpoint / "rank_position.npz", counts=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="pickled objects"):
        staged(checkpoint, tmp_path, card)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"corpus": "/" + "home/me/corpus"}, "path of a machine"),
        ({"corpus": {"list": ["/big-disk/x/corpus"]}}, "path of a machine"),
        ({"/big-disk/x/a.h5ad": 3}, "path of a machine"),
        ({"corpus": "~/corpus"}, "path of a machine"),
        ({"corpus": "D:\\lab\\corpus"}, "path of a machine"),
        ({"note": "read from (/" + "scratch/me/a.h5ad)"}, "path of a machine"),
        ({"note": "file:///a"}, "path of a machine"),
        ({"donors": ["P-07", "P-08"]}, r"names donors \('P-07'\)"),
        ({"split": [{"patient_id": "anna"}]}, r"names patient_id \('anna'\)"),
        ({"donor": {"calls": [{"group": "P-07"}]}}, "names donor"),
        ({"first": "AAACCTGAGAAACCAT-1"}, "cell barcode"),
        ({"note": "mostly of Patient-X."}, "holds 'patient-x'"),
    ],
)
def test_paths_people_and_barcodes_are_refused(checkpoint, tmp_path, card, record, message):
    (checkpoint / "training.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=message):
        staged(checkpoint, tmp_path, card, forbidden=("patient-x",))
    assert not (tmp_path / "staged").exists()


def test_what_only_looks_like_it_is_published(checkpoint, tmp_path, card):
    record = {
        "source": "github lab/tool data/exp.rda and https://example.org/home/data/a.h5ad",
        "donors": 12, "donor": "donor_id", "donors_seen": {"n": 3}, "note": "and/or; Patient-Xs; 3/4",
    }  # fmt: skip
    (checkpoint / "training.json").write_text(json.dumps(record))
    staged(checkpoint, tmp_path, card, forbidden=("patient-x",))
    assert json.loads((tmp_path / "staged" / "training.json").read_text()) == record


def test_the_card_and_the_weights_are_looked_into_too(checkpoint, tmp_path, card):
    text = card.read_text()
    card.write_text(text + "\nRun it on /" + "home/me/cells.h5ad.\n")
    with pytest.raises(ValueError, match=r"README\.md holds a path"):
        staged(checkpoint, tmp_path, card)
    card.write_text(text)
    from safetensors.torch import load_file, save_file

    weights = load_file(checkpoint / "model.safetensors")
    save_file(weights, checkpoint / "model.safetensors", metadata={"from": "/" + "tmp/run/7"})
    with pytest.raises(ValueError, match=r"model.safetensors holds a path"):
        staged(checkpoint, tmp_path, card)
    (checkpoint / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="no safetensors file"):
        staged(checkpoint, tmp_path, card)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# a card\n", "no YAML front matter"),
        ("---\n- a\n- b\n---\n", "no YAML"),
        ("---\nlicense: [unclosed\n---\n", "no YAML"),
        ("---\nlibrary_name: transformers\n---\n", "states no licence"),
        ("---\nlicense:\n---\n", "states no licence"),
        ("---\nlicense: cc-by-4.0\n---\n", "pass its text by --license-file"),
    ],
)
def test_a_card_has_to_state_a_licence(checkpoint, tmp_path, card, text, message):
    card.write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        staged(checkpoint, tmp_path, card)


def test_card_and_licence_of_the_folder_are_the_usual_ones(checkpoint, tmp_path, card):
    with pytest.raises(FileNotFoundError, match=r"no model card at README\.md"):
        staged(checkpoint, tmp_path, None)
    (checkpoint / "README.md").write_text(card.read_text().replace("apache-2.0", "cc-by-4.0"))
    (checkpoint / "LICENSE").write_text("theirs")
    staged(checkpoint, tmp_path, None)
    assert (tmp_path / "staged" / "LICENSE").read_text() == "theirs"
    (tmp_path / "mine").write_text("mine")
    staged(checkpoint, tmp_path, None, license_file=tmp_path / "mine")
    assert (tmp_path / "staged" / "LICENSE").read_text() == "mine"


def test_a_dry_run_touches_no_network(checkpoint, card, no_network, hub):
    found = publish(checkpoint, "someone/tiny", PublishSettings(card=card, dry_run=True))
    assert (found["pushed"], found["url"]) == (False, None)
    assert {file["name"] for file in found["files"]} == CORE
    assert hub.made == []


@pytest.mark.parametrize("private", [True, False])
def test_a_push_hands_the_hub_what_was_listed(checkpoint, card, no_network, hub, private):
    hub.private = private
    found = publish(checkpoint, "someone/tiny", PublishSettings(card=card, private=private))
    assert hub.token == "secret"  # noqa: S105
    ((name, options),) = hub.made
    assert name == "someone/tiny"
    assert options == {"private": private or None, "repo_type": "model", "exist_ok": True}
    assert {name: len(content) for name, content in hub.pushed.items()} == {
        file["name"]: file["size"] for file in found["files"]
    }
    assert (found["pushed"], found["url"]) == (True, "https://hub.invalid/someone/tiny/commit/1")


def test_nothing_private_is_pushed_to_a_public_repository(checkpoint, card, no_network, hub):
    with pytest.raises(ValueError, match="there already and public"):
        publish(checkpoint, "someone/tiny", PublishSettings(card=card, private=True))
    assert hub.pushed == {}


def test_without_token_network_or_name_nothing_begins(checkpoint, card, no_network, hub, monkeypatch):
    settings = PublishSettings(card=card)
    for name in ("tiny", "a/b/c", "some one/tiny"):
        with pytest.raises(ValueError, match=r"OWNER/NAME|no name of a repository"):
            publish(checkpoint, name, settings)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(PermissionError, match="no Hugging Face token"):
        publish(checkpoint, "someone/tiny", settings)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
        publish(checkpoint, "someone/tiny", settings)
    assert hub.made == []


def test_what_the_hub_refuses_is_said(checkpoint, card, hub, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("403")

    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", refuse)
    with pytest.raises(OSError, match=r"the push to someone/tiny failed.*403"):
        publish(checkpoint, "someone/tiny", PublishSettings(card=card))
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(OSError, match="nothing was pushed: 403"):
        publish(checkpoint, "someone/tiny", PublishSettings(card=card))


def test_words_are_read_one_a_line(tmp_path):
    (tmp_path / "words").write_text("P-07\n\n  anna b. \n")
    assert read_words(tmp_path / "words") == ("P-07", "anna b.")
    assert read_words(None) == ()
    with pytest.raises(FileNotFoundError, match="one a line"):
        read_words(tmp_path / "none")
