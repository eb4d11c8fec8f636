"""Reading a TOML file into a frozen pydantic model: overrides laid over it, unknown keys refused by name.

A config file is the record of a run, so a typo must not pass in silence: an unknown key stops the run and the
nearest known key is named.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

Config = TypeVar("Config", bound=BaseModel)


def read_toml_config(
    path: Path | str,
    model: type[Config],
    overrides: Sequence[str] = (),
    *,
    rivals: Mapping[str, str] | None = None,
) -> Config:
    """Read a config file, lay ``section.key=value`` overrides over it, and check it.

    Parameters
    ----------
    path
        TOML file with the sections of `model`.
    model
        What it must fit.
    overrides
        ``section.key=value``, the value as TOML writes it; what is no TOML is taken as a string, and the
        bare word ``none`` unsets an optional key. Of a list of sections the only one is meant, or
        ``section.NUMBER.key`` counted from 0.
    rivals
        ``section.key`` -> key of the same section that an override of the former takes away.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is no TOML, a key is unknown (the nearest known one is named), or a value does not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no config file {path}")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is not a TOML file: {error}") from error
    for override in overrides:
        _lay_over(content, override, rivals or {})
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{path.name}: " + "; ".join(_complaints(error, model))) from error


def known_keys(model: type[BaseModel]) -> list[str]:
    """Return every ``section.key`` that a config of a model may hold."""
    return [f"{name}.{key}" for name, section in _sections(model).items() for key in section.model_fields]


def _sections(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    found = {}
    for name, field in model.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]
        section = next(
            (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None
        )
        if section is not None:
            found[name] = section
    return found


def _lay_over(content: dict[str, Any], override: str, rivals: Mapping[str, str]) -> None:
    key, equals, text = override.partition("=")
    section, dot, name = key.strip().partition(".")
    if not (equals and dot and name):
        raise ValueError(f"--set {override!r} is not section.key=value, such as optim.lr=2e-4")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    keys = content.setdefault(section, {})
    if isinstance(keys, list):
        number, dot, rest = name.partition(".")
        place = int(number) if dot and number.isdecimal() else 0
        name = rest if dot else name
        if place >= len(keys) or (not dot and len(keys) > 1):
            raise ValueError(
                f"--set {override!r}: {section} holds {len(keys)}; write {section}.NUMBER.key=value"
            )
        keys = keys[place]
    if not isinstance(keys, dict):
        raise ValueError(f"--set {override!r}: {section} is not a section of the config")
    keys[name] = None if value == "none" else value
    if rival := rivals.get(f"{section}.{name}"):
        keys.pop(rival, None)


def _complaints(error: ValidationError, model: type[BaseModel]) -> list[str]:
    known = known_keys(model)
    complaints = []
    for problem in error.errors(include_url=False):
        place = [part for part in problem["loc"] if not isinstance(part, int)]  # which of a list: no help
        key = ".".join(map(str, place))
        if problem["type"] == "extra_forbidden":
            section, dot, name = key.partition(".")
            sections = list(model.model_fields)
            own = {one.partition(".")[2]: one for one in known if one.startswith(f"{section}.")}
            every = {one.partition(".")[2]: one for one in known}
            near = [own[match] for match in difflib.get_close_matches(name, own, n=1)]
            near = near or [every[match] for match in difflib.get_close_matches(name, every, n=1)]
            near = near if dot else difflib.get_close_matches(section, sections, n=1)
            near = near or difflib.get_close_matches(key, own.values(), n=1, cutoff=0.8)  # lrate for lr
            hint = (
                f"; did you mean {near[0]!r}?"
                if near
                else f"; known keys: {', '.join(own.values() or sections)}"
            )
            complaints.append(f"unknown key {key!r}{hint}")
        elif problem["type"] == "missing":
            complaints.append(f"{key!r} is missing")
        elif problem["type"] == "value_error":  # a sentence of our own, which needs no section around it
            complaints.append(str(problem["ctx"]["error"]))
        else:
            complaints.append(f"{key!r}: {problem['msg']} (found {problem['input']!r})")
    return complaints
