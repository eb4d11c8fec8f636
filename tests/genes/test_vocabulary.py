"""Vocabulary folders: what is written comes back, and damage is told in one way."""

import json

import numpy as np
import pytest

from geneformer_grn.genes.vocabulary import GeneVocabulary


@pytest.fixture
def folder(tiny_vocabulary, tmp_path):
    tiny_vocabulary.save(tmp_path)
    return tmp_path


def test_what_is_saved_is_loaded(folder, tiny_vocabulary):
    loaded = GeneVocabulary.load(folder)
    assert loaded.fingerprint == tiny_vocabulary.fingerprint
    np.testing.assert_array_equal(loaded.medians, tiny_vocabulary.medians)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "3", '{"own_aliases": true}'])
def test_damaged_facts(folder, text):
    (folder / "vocabulary.json").write_text(text)
    with pytest.raises(ValueError, match=r"the gene vocabulary in .* is damaged"):
        GeneVocabulary.load(folder)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"ensembl_id\tsymbol\nA\tB\n", b'a\t"b\nc'])
def test_damaged_genes(folder, content):
    (folder / "genes.tsv").write_bytes(content)
    with pytest.raises(ValueError, match=r"the gene vocabulary in .* is damaged"):
        GeneVocabulary.load(folder)


@pytest.mark.parametrize("key", ["setting", "own_aliases", "max_length", "target_sum", "fingerprint"])
def test_missing_and_wrong_facts(folder, key):
    path = folder / "vocabulary.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in facts.items() if name != key}))
    with pytest.raises(ValueError, match=f"is damaged: '{key}' is missing"):
        GeneVocabulary.load(folder)
    path.write_text(json.dumps({**facts, key: None if key != "own_aliases" else True}))
    with pytest.raises(ValueError, match="is damaged"):
        GeneVocabulary.load(folder)


def test_changed_medians(folder):
    path = folder / "genes.tsv"
    lines = path.read_text().splitlines()
    fields = lines[-1].split("\t")
    fields[2] = "3.5"
    path.write_text("\n".join([*lines[:-1], "\t".join(fields)]) + "\n")
    with pytest.raises(ValueError, match=r"is damaged: it was changed: genes\.tsv has fingerprint"):
        GeneVocabulary.load(folder)


def test_no_vocabulary(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no gene vocabulary"):
        GeneVocabulary.load(tmp_path)
