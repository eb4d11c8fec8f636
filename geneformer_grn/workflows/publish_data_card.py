"""The data card that travels beside a model card; refused where its cells may not be shipped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from geneformer_grn.workflows.publish_checks import refuse_private

DATA_CARD = "data_card.md"
_AS_JSON = "data_card.json"
_NOT_TO_BE_SHIPPED = "**Not to be shipped:**"  # as the card's text has it


def data_card_text(checkpoint: Path, named: Path | None, *, words: Sequence[str] = ()) -> str | None:
    """Return the text of the data card that goes with a checkpoint.

    Parameters
    ----------
    checkpoint
        Folder of the checkpoint; its ``data_card.md``, else its ``data_card.json``, is taken unless `named`.
    named
        Markdown, or the JSON that ``corpus build`` writes, which is then looked into as JSON and rendered.
    words
        Must not be in it.

    Returns
    -------
    str or None
        Markdown; None where there is no data card and none was asked for.

    Raises
    ------
    FileNotFoundError
        The file named is not there.
    ValueError
        It is no data card, says that its cells may not be shipped, or names people or paths.
    """
    if named is None:
        path = next((path for name in (DATA_CARD, _AS_JSON) if (path := checkpoint / name).is_file()), None)
        if path is None:
            return None
    elif named.is_file():
        path = named
    else:
        raise FileNotFoundError(
            f"no data card at {named.name}; geneformer-grn corpus build writes {DATA_CARD}"
        )
    refuse_private(path, words=words)
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        text = _rendered(path.name, text)
    if _NOT_TO_BE_SHIPPED in text:
        raise ValueError(
            f"{path.name} says that its corpus is not to be shipped: it holds files of no stated licence; "
            "build it without --include-unlicensed and train on that"
        )
    return text


def _rendered(name: str, text: str) -> str:
    from geneformer_grn.workflows.corpus_card import CARD_KIND
    from geneformer_grn.workflows.corpus_card_text import card_text

    card = json.loads(text)
    if not isinstance(card, dict) or card.get("kind") != CARD_KIND:
        raise ValueError(f"{name} is no data card of geneformer-grn corpus build; pass that, or Markdown")
    return card_text(card)
