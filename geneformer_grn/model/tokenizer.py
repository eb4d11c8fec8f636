"""The Hugging Face tokenizer of a vocabulary: words are Ensembl IDs, one token each.

It exists so that ``AutoTokenizer`` and ``pipeline("fill-mask")`` work on our checkpoints without this
package. Our own code ranks counts and never goes through text. The files are written by hand rather than by
``save_pretrained``, whose class names differ between ``transformers`` versions.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

from geneformer_grn._runtime import atomic_path
from geneformer_grn.genes.vocabulary import GeneVocabulary


def write_tokenizer(vocabulary: GeneVocabulary, folder: Path | str) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` of `vocabulary` into `folder`.

    Text is split at white space; a word is an Ensembl ID or a special token. ``<cls>`` and ``<eos>`` are put
    around it, inside the maximum length, where the setting has them. Without ``<unk>`` (V1, V2) an unknown
    word is an error, as it should be.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = [str(name) for name in vocabulary.ensembl_ids[: vocabulary.n_special]]
    words = {str(gene): token for token, gene in enumerate(vocabulary.ensembl_ids)}
    unknown = {"unk_token": "<unk>"} if "<unk>" in names else {}
    tokenizer = Tokenizer(WordLevel(words, **unknown))
    tokenizer.pre_tokenizer = WhitespaceSplit()  # type: ignore[assignment]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    if vocabulary.n_wrapping:
        tokenizer.post_processor = TemplateProcessing(  # type: ignore[assignment]
            single="<cls> $A <eos>",
            special_tokens=[(name, vocabulary.token_of[name]) for name in ("<cls>", "<eos>")],
        )
    with atomic_path(folder / "tokenizer.json") as path:
        tokenizer.save(str(path))
    with atomic_path(folder / "tokenizer_config.json") as path:
        path.write_text(json.dumps(_tokenizer_config(names, vocabulary.max_length), indent=2) + "\n")


def _tokenizer_config(names: list[str], max_length: int) -> dict[str, Any]:
    """Return what ``AutoTokenizer`` needs to know beside ``tokenizer.json``."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
        **{f"{name.strip('<>')}_token": name for name in names},
    }
