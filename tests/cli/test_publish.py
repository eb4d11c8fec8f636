"""The verb publish: the shipped model and its card, listed without a network; one line for what is wrong."""

from __future__ import annotations

import json
import socket

import pytest

from geneformer_grn._runtime import sha256_file
from geneformer_grn.model.folder import SHIPPED

pytestmark = pytest.mark.skipif(not (SHIPPED / "mini").is_dir(), reason="no shipped checkpoint here")


@pytest.fixture
def card(repository):
    return repository / "model_cards" / "mini.md"


def test_the_shipped_model_can_be_published(invoke, card, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    answer = invoke("publish", "mini", "--repo", "someone/mini", "--card", card, "--dry-run", "--json")
    assert answer.code == 0, answer.err
    *lines, said, last = answer.out.splitlines()
    assert said == "nothing was pushed (--dry-run)"
    listed = {name: (int(size.replace(",", "")), digest) for size, digest, name in map(str.split, lines)}
    weights = SHIPPED / "mini" / "model.safetensors"
    assert listed["model.safetensors"] == (weights.stat().st_size, sha256_file(weights))
    assert listed["README.md"] == (card.stat().st_size, sha256_file(card))
    summary = json.loads(last)
    assert {file["name"] for file in summary["files"]} == set(listed)
    assert (summary["repository"], summary["pushed"], summary["left_out"]) == ("someone/mini", False, [])


def test_a_data_card_goes_along(invoke, card, tmp_path):
    data_card = tmp_path / "mini-data.md"
    data_card.write_text("# Data card\n\n| part | donors |\n|---|---|\n| train | 23 |\n")
    call = ("publish", "mini", "--repo", "someone/mini", "--card", card, "--dry-run", "--data-card")
    answer = invoke(*call, data_card)
    assert answer.code == 0, answer.err
    (line,) = (line for line in answer.out.splitlines() if line.endswith(" data_card.md"))
    assert line.split()[:2] == [str(data_card.stat().st_size), sha256_file(data_card)]
    answer = invoke(*call, tmp_path / "none.md")
    assert (answer.code, len(answer.err.splitlines())) == (2, 1)
    assert answer.err.startswith("error: no data card at none.md")


def test_bad_calls_are_one_line(invoke, card, tmp_path):
    for arguments, message in (
        (("mini", "--repo", "someone/mini", "--dry-run"), "no model card"),
        (("mini", "--repo", "mini", "--card", card, "--dry-run"), "says no owner"),
        ((tmp_path / "none", "--repo", "a/b", "--card", card, "--dry-run"), "no checkpoint"),
        (("mini", "--repo", "a/b", "--card", card, "--forbid", tmp_path / "none"), "no words at"),
        (("mini", "--repo", "someone/mini", "--card", card), "HF_HUB_OFFLINE is set"),
    ):
        answer = invoke("publish", *arguments)
        assert answer.code == 2
        assert message in answer.err
        assert "Traceback" not in answer.err


def test_without_a_token_it_says_where_to_get_one(invoke, card, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    answer = invoke("publish", "mini", "--repo", "someone/mini", "--card", card)
    assert answer.code == 2
    assert "hf auth login" in answer.err
