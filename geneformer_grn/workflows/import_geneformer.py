"""Turn published Geneformer files into a checkpoint of ours; the weights stay as they are.

The dictionaries become the vocabulary. All that comes out is plain text and safetensors: no pickle remains.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from geneformer_grn._runtime import logger, staged_folder
from geneformer_grn.genes.dictionaries import PublishedSetting, import_dictionaries
from geneformer_grn.genes.vocabulary import GeneVocabulary

if TYPE_CHECKING:
    from transformers import BertForMaskedLM


def import_geneformer(
    dictionaries: Path | str, setting: PublishedSetting, out: Path | str, *, weights: Path | str | None = None
) -> GeneVocabulary:
    """Write vocabulary and tokenizer from the published dictionaries, with weights a whole checkpoint.

    Parameters
    ----------
    dictionaries
        Folder of the four published pickles of a release.
    setting
        ``v1`` (gc30M) or ``v2`` (gc104M).
    out
        Folder for ``genes.tsv``, ``vocabulary.json``, ``aliases.tsv``, ``tokenizer.json`` and
        ``tokenizer_config.json``, with weights also ``config.json`` and ``model.safetensors``. All or none.
    weights
        Folder of a published BERT masked-language model, as Hugging Face stores it.

    Returns
    -------
    GeneVocabulary
        What was written.

    Raises
    ------
    FileNotFoundError
        A dictionary, or the weights, are missing.
    ValueError
        A dictionary is refused, or the weights do not fit the vocabulary.
    PermissionError, NotADirectoryError
        `out` cannot be written.
    """
    from geneformer_grn.model.checkpoint import save_checkpoint
    from geneformer_grn.model.tokenizer import write_tokenizer

    with staged_folder(out) as staging:
        vocabulary = import_dictionaries(dictionaries, setting)
        if weights is None:
            vocabulary.save(staging)
            write_tokenizer(vocabulary, staging)
        else:
            save_checkpoint(_load_published(Path(weights), vocabulary), vocabulary, staging)
    logger.info("wrote %s: %s tokens, setting %s", out, f"{len(vocabulary):,}", setting)
    return vocabulary


def _load_published(weights: Path, vocabulary: GeneVocabulary) -> BertForMaskedLM:
    """Return a published model, checked to be complete and to have the vocabulary's tokens and positions."""
    from geneformer_grn.model.checkpoint import load_weights
    from geneformer_grn.model.folder import read_model_config

    if not weights.is_dir():
        raise FileNotFoundError(f"{weights}: no such folder of weights")
    read_model_config(weights, vocabulary)
    return load_weights(weights)
