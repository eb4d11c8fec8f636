"""The shipped checkpoint and demo cells: loaded by anyone's tools, small, and better than their baselines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM

from geneformer_grn.cells.batches import pack
from geneformer_grn.cells.counts import ReadSettings, read_counts
from geneformer_grn.cells.ranking import model_input, rank_cells
from geneformer_grn.model.encoder import load_encoder, masked_head, packed_states
from geneformer_grn.model.folder import resolve_checkpoint
from geneformer_grn.training.validation import masked_cells
from geneformer_grn.workflows.evaluate import EvaluateSettings, evaluate_model

NAME = "mini"

# Runs where our package cannot be imported: what it prints is what anybody gets.
ANYBODY = """
import json, sys
sys.modules["geneformer_grn"] = None
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline
folder, cell, hidden = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
model, tokenizer = AutoModelForMaskedLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
words = [*cell[:hidden], tokenizer.mask_token, *cell[hidden + 1:]]
fill = pipeline("fill-mask", model=model, tokenizer=tokenizer, top_k=5)
print(json.dumps({
    "ids": tokenizer(" ".join(cell))["input_ids"],
    "answers": fill(" ".join(words)),
    "type": type(model).__name__,
    "dtype": str(model.dtype),
    "ours": sys.modules["geneformer_grn"] is not None,
}))
"""


@pytest.fixture(scope="module")
def folder(repository: Path) -> Path:
    if not (repository / "geneformer_grn" / "_checkpoints" / NAME).is_dir():
        pytest.skip("no shipped checkpoint here")
    return resolve_checkpoint(NAME)


@pytest.fixture(scope="module")
def demo_file(repository: Path) -> Path:
    return repository / "geneformer_grn" / "_demo" / "cells.h5ad"


@pytest.fixture(scope="module")
def encoder(folder: Path):
    return load_encoder(NAME, device="cpu")


@pytest.fixture(scope="module")
def sequences(encoder, demo_file):
    """Model inputs of 12 demo cells of different lengths."""
    counts = read_counts(demo_file, encoder.vocabulary, ReadSettings(drop_empty=True), n_cells=12, seed=0)
    ranked = rank_cells(counts, encoder.vocabulary)
    found = [model_input(ranked.cell(row), encoder.vocabulary) for row in range(len(ranked))]
    assert len({len(ids) for ids in found}) > 3
    return found


def test_it_is_small_enough_to_ship(folder, demo_file):
    assert (folder / "model.safetensors").stat().st_size < 15_000_000
    assert demo_file.stat().st_size < 4_000_000


def test_demo_cells_are_raw_counts_of_known_genes(encoder, demo_file):
    counts = read_counts(demo_file, encoder.vocabulary, ReadSettings(drop_empty=True))
    assert len(counts) >= 200
    assert not counts.report["normalised"]
    assert counts.report["share_counts_lost"] < 0.1


def test_anybody_can_load_it_and_ask_it_for_genes(folder, encoder, sequences):
    """No package of ours, no code from the folder, no network."""
    ids = sequences[0][:300]
    cell = encoder.vocabulary.ensembl_ids[ids[1:-1]].tolist()
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ANYBODY, str(folder), json.dumps(cell), "20"],
        env=os.environ | {"HF_HUB_OFFLINE": "1"}, cwd=folder.parent, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout.splitlines()[-1])
    assert found["type"] == "BertForMaskedLM"
    assert found["dtype"] == "torch.float32"
    assert not found["ours"]
    vocabulary = encoder.vocabulary
    special = [vocabulary.special("<cls>"), vocabulary.special("<eos>")]
    assert found["ids"] == [special[0], *ids[1:-1].tolist(), special[1]]
    answers = found["answers"]
    assert len(answers) == 5
    assert all(guess["token_str"].startswith("ENSG") for guess in answers)
    hidden = np.array([special[0], *ids[1:-1], special[1]])
    hidden[21] = vocabulary.special("<mask>")
    labels = np.full(len(hidden), -100)
    labels[21] = ids[21]
    probability = encoder.masked_logits(pack([hidden], labels=[labels]))[0].softmax(0)
    for guess in answers:
        assert vocabulary.ensembl_ids[guess["token"]] == guess["token_str"]
        assert float(probability[guess["token"]]) == pytest.approx(guess["score"], rel=1e-3)
    assert answers[0]["token"] == int(probability.argmax())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-6)])
def test_packed_logits_equal_padded_ones(folder, encoder, sequences, dtype, tolerance):
    """Logits as a share of the largest (about 25, where float32 is 2e-6 coarse; ours return as float32)."""
    plain = AutoModelForMaskedLM.from_pretrained(folder, dtype=dtype).eval()
    cells = masked_cells(sequences[:4], encoder.vocabulary, seed=0)
    assert len({len(ids) for ids, _ in cells}) > 1
    batch = pack([ids for ids, _ in cells], labels=[labels for _, labels in cells])
    ours = deepcopy(encoder.model).to(dtype)
    longest = max(len(ids) for ids, _ in cells)
    padded = torch.full((len(cells), longest), encoder.vocabulary.special("<pad>"))
    mask = torch.zeros(len(cells), longest, dtype=torch.long)
    for row, (ids, _) in enumerate(cells):
        padded[row, : len(ids)] = torch.from_numpy(ids)
        mask[row, : len(ids)] = 1
    with torch.inference_mode():
        packed = masked_head(ours, packed_states(ours, batch), batch.masked_index)
        logits = plain(input_ids=padded, attention_mask=mask).logits
    hidden = [np.flatnonzero(labels != -100) for _, labels in cells]
    expected = torch.cat([logits[row, places] for row, places in enumerate(hidden)])
    assert len(expected) > 100
    assert float((packed - expected).abs().max() / expected.abs().max()) < tolerance
    torch.testing.assert_close(
        packed.softmax(1), expected.softmax(1), atol=2 * tolerance, rtol=0, check_dtype=False
    )


def test_it_beats_what_it_has_to_beat_on_cells_it_never_saw(folder):
    """The demo cells are in no pretraining corpus; were they, this would raise."""
    results = evaluate_model(NAME, (), EvaluateSettings(device="cpu", max_cells=40))
    ahead = results["masked_genes"]["all"]["ahead_of"]
    assert set(ahead) == {"rank_position", "untrained"}
    for name, gain in ahead.items():
        assert gain["loss"]["low"] > 0, name
        assert gain["accuracy"]["mean"] > 0, name


def test_its_record_says_what_it_was_trained_on(folder):
    record = json.loads((folder / "training.json").read_text())
    vocabulary = json.loads((folder / "vocabulary.json").read_text())
    sources = {source["sha256"]: source for source in vocabulary["provenance"]["sources"]}
    assert record["corpus"]["files"]
    for entry in record["corpus"]["files"]:
        assert sources[entry["sha256"]]["license"], "files of unstated licence stay out"
    trained = {entry["sha256"]: entry for entry in record["corpus"]["files"]}
    held_out = {entry["sha256"]: entry for entry in record["held_out"]["files"]}
    whole = set(held_out) - set(trained)
    assert whole, "some files are held out whole"
    assert not set(sources) & whole, "medians come from the training files only"
    for name in set(held_out) & set(trained):
        left_out = trained[name]["left_out"]["elsewhere"]
        assert left_out >= held_out[name]["n_cells"] > 0, "a part of a file is in one of both"


def test_the_shipped_vocabulary_is_the_models(folder, repository):
    shipped = json.loads((repository / "tokenizers" / "human" / "vocabulary.json").read_text())
    of_model = json.loads((folder / "vocabulary.json").read_text())
    assert shipped["fingerprint"] == of_model["fingerprint"], "a corpus of one would not fit the other"
