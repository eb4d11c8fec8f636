"""GraphML of an edge table: written line by line, since tables are longer than documents should be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import IO, Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import pandas as pd

_HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<graphml xmlns="http://graphml.graphdrawing.org/xmlns"
         xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
         xsi:schemaLocation="http://graphml.graphdrawing.org/xmlns http://graphml.graphdrawing.org/xmlns/1.0/graphml.xsd">
"""
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_graphml(edges: pd.DataFrame, file: IO[str], *, name_of: Mapping[str, str]) -> None:
    """Write a directed graph; edges of several groups and methods are parallel.

    Parameters
    ----------
    edges
        Checked edge table; columns other than ``source`` and ``target`` (and their symbols) become attributes
        of the edges, but for fields without a value.
    file
        Open for text.
    name_of
        Gene -> its ``name``, an attribute of the node beside ``is_regulator``; the node's id is the gene as
        the table has it.
    """
    symbols = {"source_symbol", "target_symbol"}
    columns = [column for column in edges.columns if column not in {"source", "target", *symbols}]
    kinds = {column: _kind(edges[column]) for column in columns}
    regulators = set(edges["source"])
    file.write(_HEAD)
    file.write('  <key id="name" for="node" attr.name="name" attr.type="string"/>\n')
    file.write('  <key id="is_regulator" for="node" attr.name="is_regulator" attr.type="boolean"/>\n')
    for number, column in enumerate(columns):
        kind = kinds[column]
        file.write(f'  <key id="e{number}" for="edge" attr.name={_quoted(column)} attr.type="{kind}"/>\n')
    file.write('  <graph id="network" edgedefault="directed">\n')
    for gene in pd.unique(edges[["source", "target"]].to_numpy().ravel()):
        name, role = _text(name_of[gene]), str(gene in regulators).lower()
        file.write(
            f'    <node id={_quoted(gene)}><data key="name">{name}</data>'
            f'<data key="is_regulator">{role}</data></node>\n'
        )
    values = [edges[column].to_numpy() for column in columns]
    for row, (source, target) in enumerate(zip(edges["source"], edges["target"], strict=True)):
        data = "".join(
            f'<data key="e{number}">{_text(_shown(value[row]))}</data>'
            for number, value in enumerate(values)
            if not pd.isna(value[row])
        )
        file.write(f'    <edge id="{row}" source={_quoted(source)} target={_quoted(target)}>{data}</edge>\n')
    file.write("  </graph>\n</graphml>\n")


def _kind(column: pd.Series) -> str:
    if pd.api.types.is_bool_dtype(column):
        return "boolean"
    if pd.api.types.is_integer_dtype(column):
        return "long"
    return "double" if pd.api.types.is_float_dtype(column) else "string"


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool | np.bool_) else str(value)


def _text(text: str) -> str:
    return escape(_NOT_XML.sub("\ufffd", str(text)))


def _quoted(text: str) -> str:
    return quoteattr(_NOT_XML.sub("\ufffd", str(text)))
