"""A checkpoint made ready for others and pushed to the Hugging Face Hub.

What is pushed is a folder of its own, with known files only: a checkpoint's folder may hold a run's state
beside the model. Everything is checked before anything is sent, since what was public once stays public.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geneformer_grn._runtime import atomic_path, logger, package_version, sha256_file
from geneformer_grn.model.folder import read_model_config, read_vocabulary, resolve_checkpoint
from geneformer_grn.workflows.publish_checks import refuse_pickles, refuse_private
from geneformer_grn.workflows.publish_data_card import DATA_CARD, data_card_text

_NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json", "genes.tsv", "vocabulary.json")
_WELCOME = ("aliases.tsv", "heads.json", "heads.safetensors", "rank_position.npz", "training.json")
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_CARD, _LICENSE = "README.md", "LICENSE"


@dataclass(frozen=True)
class PublishSettings:
    """What goes with the weights, and how.

    Attributes
    ----------
    card
        Markdown file of the model card; None: ``README.md`` of the checkpoint's folder.
    data_card
        Data card of the corpus, as ``corpus build`` writes it; None: ``data_card.md`` or ``data_card.json``
        of that folder, if there.
    license_file
        Text of the licence; None: ``LICENSE`` of that folder, else Apache's, if the card says so.
    forbidden
        Words that must be in no file: names of donors, say.
    private
        Nobody else sees the repository.
    dry_run
        Check and list only; no network.
    """

    card: Path | None = None
    data_card: Path | None = None
    license_file: Path | None = None
    forbidden: Sequence[str] = ()
    private: bool = False
    dry_run: bool = False


def publish(checkpoint: Path | str, repository: str, settings: PublishSettings) -> dict[str, Any]:
    """Push a checkpoint to the Hugging Face Hub, or list what would be pushed.

    Parameters
    ----------
    checkpoint
        Folder, shipped name or Hugging Face id on disk.
    repository
        ``OWNER/NAME`` on the Hub; made if it is not there.
    settings
        Card, licence, what to look for, whether to push.

    Returns
    -------
    dict
        ``repository``, ``files`` (``name``, ``size`` in bytes, ``sha256``), ``left_out`` (names of other
        files of the checkpoint's folder), ``pushed``, ``url`` of the commit or None.

    Raises
    ------
    FileNotFoundError
        There is no such checkpoint, card or licence.
    PermissionError
        This machine has no token.
    ValueError
        A file must not be published, or the files do not belong together.
    OSError
        The Hub refused, or was not reached.

    Examples
    --------
    >>> publish("mini", "someone/mini", PublishSettings(card=Path("card.md"), dry_run=True))  # doctest: +SKIP
    """
    _check_name(repository)
    folder = resolve_checkpoint(checkpoint)
    with tempfile.TemporaryDirectory(prefix="geneformer-grn-") as temporary:
        staged = Path(temporary) / "model"
        files = stage_repository(folder, staged, settings)
        listed = {file["name"] for file in files}
        left_out = sorted(path.name for path in folder.iterdir() if path.name not in listed)
        if left_out:
            logger.info("left out: %s", ", ".join(left_out))
        url = None if settings.dry_run else _push(staged, repository, private=settings.private)
    return {
        "repository": repository, "files": files, "left_out": left_out,
        "pushed": not settings.dry_run, "url": url,
    }  # fmt: skip


def stage_repository(
    checkpoint: Path, folder: Path | str, settings: PublishSettings
) -> list[dict[str, str | int]]:
    """Write what would be pushed as a folder, all of it or nothing.

    Parameters
    ----------
    checkpoint
        Folder of the checkpoint.
    folder
        Where to write weights, config, tokenizer, vocabulary, cards and licence.
    settings
        As for `publish`.

    Returns
    -------
    list of dict
        ``name``, ``size`` in bytes and ``sha256`` of each file, by name.

    Raises
    ------
    FileNotFoundError, ValueError
        As for `publish`.
    """
    refuse_pickles(checkpoint)
    read_model_config(checkpoint, read_vocabulary(checkpoint))
    sources = {name: checkpoint / name for name in _names(checkpoint)}
    sources[_CARD] = _card(checkpoint, settings.card)
    license_name = _license_of(sources[_CARD])
    sources[_LICENSE] = _license_text(checkpoint, license_name, settings.license_file)
    data_card = data_card_text(checkpoint, settings.data_card, words=settings.forbidden)
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        for name, source in sorted(sources.items()):
            shutil.copyfile(source, temporary / name)
            refuse_private(temporary / name, words=settings.forbidden)
        if data_card is not None:
            (temporary / DATA_CARD).write_text(data_card, encoding="utf-8")
            refuse_private(temporary / DATA_CARD, words=settings.forbidden)
        return [
            {"name": path.name, "size": path.stat().st_size, "sha256": sha256_file(path)}
            for path in sorted(temporary.iterdir())
        ]


def read_words(path: Path | None) -> tuple[str, ...]:
    """Return the words of a file, one a line; none without a file.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    """
    if path is None:
        return ()
    if not path.is_file():
        raise FileNotFoundError(f"no words at {path}; write one a line")
    return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())


def _check_name(repository: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ValueError(f"{repository!r} is no name of a repository: {error}") from error
    if "/" not in repository:
        raise ValueError(f"{repository!r} says no owner; write --repo OWNER/NAME")


def _names(checkpoint: Path) -> list[str]:
    """Return the names of the checkpoint's files that are published."""
    missing = [name for name in _NEEDED if not (checkpoint / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{checkpoint.name} is not complete, it has no {', '.join(missing)}")
    if (checkpoint / _WEIGHTS).is_file():
        weights = [_WEIGHTS]
    elif (checkpoint / _INDEX).is_file():
        index = json.loads((checkpoint / _INDEX).read_text(encoding="utf-8"))
        weights = [_INDEX, *sorted(set(index["weight_map"].values()))]
        strange = [
            name for name in weights[1:] if Path(name).name != name or not name.endswith(".safetensors")
        ]
        absent = [name for name in weights if not (checkpoint / name).is_file()]
        if strange or absent:
            raise ValueError(f"{_INDEX} names {(strange or absent)[0]!r}, which is not in {checkpoint.name}")
    else:
        raise FileNotFoundError(f"{checkpoint.name} has no {_WEIGHTS}; only safetensors are published")
    return [*_NEEDED, *weights, *(name for name in _WELCOME if (checkpoint / name).is_file())]


def _card(checkpoint: Path, named: Path | None) -> Path:
    path = checkpoint / _CARD if named is None else named
    if not path.is_file():
        raise FileNotFoundError(
            f"no model card at {path.name}: geneformer-grn evaluate model and geneformer-grn card write one; "
            "pass it by --card"
        )
    return path


def _license_of(card: Path) -> str:
    """Return the licence that the card's front matter states."""
    from huggingface_hub import metadata_load
    from yaml import YAMLError

    way_out = "it begins with ---, lines such as 'license: apache-2.0', and ---"
    try:
        stated = metadata_load(card)
    except (UnicodeDecodeError, ValueError, YAMLError) as error:
        raise ValueError(
            f"the front matter of {card.name} is no YAML: {str(error).splitlines()[0]}"
        ) from error
    if not stated:
        raise ValueError(f"{card.name} has no YAML front matter; {way_out}")
    found = stated.get("license")
    if not isinstance(found, str) or not found.strip():
        raise ValueError(f"the front matter of {card.name} states no licence; {way_out}")
    return found


def _license_text(checkpoint: Path, stated: str, named: Path | None) -> Path:
    """Return the file of the licence: as named, else the checkpoint's, else our own if it is that."""
    if named is not None:
        if not named.is_file():
            raise FileNotFoundError(f"no licence text at {named.name}")
        return named
    if (checkpoint / _LICENSE).is_file():
        return checkpoint / _LICENSE
    if stated == "apache-2.0" and (ours := _our_license()) is not None:
        return ours
    raise FileNotFoundError(f"the card says the licence is {stated}; pass its text by --license-file")


def _our_license() -> Path | None:
    """Return the text of our own licence (Apache 2.0), installed or in a checkout."""
    try:
        files = importlib.metadata.files("geneformer-grn") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    found = [Path(str(file.locate())) for file in files if file.name == _LICENSE and "licenses" in file.parts]
    found.append(Path(__file__).resolve().parents[2] / _LICENSE)
    return next((path for path in found if path.is_file()), None)


def _push(folder: Path, repository: str, *, private: bool) -> str:
    """Push a staged folder as one commit and return its address."""
    from huggingface_hub import HfApi, constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise ValueError(
            f"cannot push to {repository}: HF_HUB_OFFLINE is set; unset it, or look with --dry-run"
        )
    token = get_token()
    if not token:
        raise PermissionError(
            f"cannot push to {repository}: this machine has no Hugging Face token; run 'hf auth login' or "
            "set HF_TOKEN (a token that may write)"
        )
    api = HfApi(token=token)
    try:
        api.create_repo(repository, private=private or None, repo_type="model", exist_ok=True)
        is_private = bool(api.model_info(repository).private)
    # The client raises errors of its HTTP library too, which differs between its versions.
    except Exception as error:
        raise OSError(f"the Hub did not open {repository}, nothing was pushed: {error}") from error
    if private and not is_private:
        raise ValueError(
            f"{repository} is there already and public; make it private first, or leave out --private"
        )
    try:
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, repo_type="model",
            commit_message=f"Model written by geneformer-grn {package_version()}",
        )  # fmt: skip
    except Exception as error:
        raise OSError(f"the push to {repository} failed, the same command tries again: {error}") from error
    return str(commit.commit_url)
