"""The verb ``import-geneformer``, on the published files and on files made to look like them."""

import json
import os
import pickle

import numpy as np
import pytest

from geneformer_grn import cli
from geneformer_grn.genes.vocabulary import GeneVocabulary

GENES = [f"ENSG{number:011d}" for number in range(1, 11)]


@pytest.fixture
def dictionaries(tmp_path):
    folder = tmp_path / "dictionaries"
    folder.mkdir()
    content = {
        "token_dictionary": {gene: token for token, gene in enumerate(["<pad>", "<mask>", *GENES])},
        "gene_median_dictionary": {gene: np.float64(1 + token) for token, gene in enumerate(GENES)},
        "ensembl_mapping_dict": {gene: gene for gene in GENES},
        "gene_name_id_dict": {f"NAME{token}": gene for token, gene in enumerate(GENES)},
    }
    for kind, value in content.items():
        (folder / f"{kind}_gc30M.pkl").write_bytes(pickle.dumps(value))
    return folder


@pytest.fixture
def weights(tmp_path):
    """A random model as published ones are stored, 12 tokens × 2048 positions."""
    return write_weights(tmp_path / "weights", n_tokens=12)


def write_weights(folder, *, n_tokens, head=True):
    import torch
    from transformers import BertConfig, BertForMaskedLM, BertModel

    config = BertConfig(
        vocab_size=n_tokens, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        hidden_act="relu", max_position_embeddings=2048,
    )  # fmt: skip
    torch.manual_seed(0)
    (BertForMaskedLM(config) if head else BertModel(config)).save_pretrained(folder)
    return folder


def run(monkeypatch, *arguments: object) -> int:
    # With a single verb Typer drops its name; a second one keeps it.
    monkeypatch.setattr(cli, "VERBS", ("genes", "import_geneformer"))
    with pytest.raises(SystemExit) as left:
        cli.main(["import-geneformer", *map(str, arguments)])
    return int(left.value.code or 0)


def test_without_weights_vocabulary_and_tokenizer(dictionaries, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    code = run(
        monkeypatch, "--dictionaries", dictionaries, "--setting", "v1", "--out", out, "--quiet", "--json"
    )
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert json.loads(printed.out.splitlines()[-1])["n_tokens"] == 12
    assert GeneVocabulary.load(out).symbols[2] == "NAME0"
    assert sorted(path.name for path in out.iterdir()) == [
        "aliases.tsv", "genes.tsv", "tokenizer.json", "tokenizer_config.json", "vocabulary.json",
    ]  # fmt: skip


def test_with_weights_a_checkpoint_that_computes_the_same(dictionaries, weights, tmp_path, monkeypatch):
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer, BertForMaskedLM

    out = tmp_path / "out"
    code = run(
        monkeypatch, "--dictionaries", dictionaries, "--setting", "v1", "--out", out, "--weights", weights
    )
    assert code == 0
    ids = torch.tensor([[2, 5, 1, 9, 11]])
    with torch.no_grad():
        before = BertForMaskedLM.from_pretrained(weights).eval()(ids).logits
        after = AutoModelForMaskedLM.from_pretrained(out).eval()(ids).logits
    assert torch.equal(before, after)
    assert AutoTokenizer.from_pretrained(out)(GENES[3])["input_ids"] == [5]


def refuse(monkeypatch, capsys, out, *arguments):
    code = run(monkeypatch, *arguments, "--out", out, "--quiet")
    printed = capsys.readouterr().err
    assert code == 2
    assert printed.count("error:") == 1
    assert "Traceback" not in printed
    assert not out.exists()
    return printed


def test_a_missing_dictionary(dictionaries, tmp_path, monkeypatch, capsys):
    (dictionaries / "gene_median_dictionary_gc30M.pkl").unlink()
    printed = refuse(monkeypatch, capsys, tmp_path / "out", "--dictionaries", dictionaries, "--setting", "v1")
    assert "lacks gene_median_dictionary_gc30M.pkl" in printed


@pytest.mark.parametrize(("setting", "message"), [("v3", "use v1 or v2"), ("v2", "gc104M")])
def test_a_wrong_setting(dictionaries, tmp_path, monkeypatch, capsys, setting, message):
    printed = refuse(
        monkeypatch, capsys, tmp_path / "out", "--dictionaries", dictionaries, "--setting", setting
    )
    assert message in printed


class Touch:
    def __reduce__(self):
        return os.system, ("touch geneformer_grn_was_here",)


def test_a_hostile_pickle_is_refused_and_not_run(dictionaries, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (dictionaries / "token_dictionary_gc30M.pkl").write_bytes(pickle.dumps({"<pad>": Touch()}))
    printed = refuse(monkeypatch, capsys, tmp_path / "out", "--dictionaries", dictionaries, "--setting", "v1")
    assert "posix.system" in printed
    assert not (tmp_path / "geneformer_grn_was_here").exists()


def test_weights_that_do_not_fit(dictionaries, tmp_path, monkeypatch, capsys):
    call = ("--dictionaries", dictionaries, "--setting", "v1", "--weights")
    out = tmp_path / "out"
    assert "no such folder" in refuse(monkeypatch, capsys, out, *call, tmp_path / "nowhere")
    assert "config.json" in refuse(monkeypatch, capsys, out, *call, dictionaries)
    other = write_weights(tmp_path / "other", n_tokens=13)
    printed = refuse(monkeypatch, capsys, out, *call, other)
    assert "13 tokens" in printed
    assert "12" in printed


def test_a_model_without_its_head_is_refused(dictionaries, tmp_path, monkeypatch, capsys):
    headless = write_weights(tmp_path / "headless", n_tokens=12, head=False)
    printed = refuse(
        monkeypatch, capsys, tmp_path / "out", "--dictionaries", dictionaries, "--setting", "v1",
        "--weights", headless,
    )  # fmt: skip
    assert "is no masked-language model" in printed


@pytest.mark.shared
@pytest.mark.parametrize(
    ("setting", "model", "n_tokens"), [("v1", "v1_3L64", 25_426), ("v2", "v2_3L64", 20_275)]
)
def test_published_files(golden_dir, tmp_path, monkeypatch, setting, model, n_tokens):
    out = tmp_path / "out"
    code = run(
        monkeypatch, "--dictionaries", golden_dir / "dictionaries", "--setting", setting, "--out", out,
        "--weights", golden_dir / "models" / model, "--quiet",
    )  # fmt: skip
    assert code == 0
    assert len(GeneVocabulary.load(out)) == n_tokens
    assert (out / "model.safetensors").is_file()
