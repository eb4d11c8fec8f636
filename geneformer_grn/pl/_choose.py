"""What the plotting verbs share: choosing the rows of one group, method, readout, state or source."""

from __future__ import annotations

import pandas as pd


def choose_rows(table: pd.DataFrame, **wanted: str | None) -> pd.DataFrame:
    """Return the rows of `table` whose columns have the values asked for.

    A column that None is asked of may then hold one value only: what is asked for is chosen first.

    Raises
    ------
    ValueError
        None is asked of a column that holds several values, or no row has a value.
    """
    for column, value in sorted(wanted.items(), key=lambda item: item[1] is None):
        table = _rows_with(table, column, value)
    return table


def _rows_with(table: pd.DataFrame, column: str, value: str | None) -> pd.DataFrame:
    if column not in table:
        if value is None:
            return table
        raise ValueError(f"{column}={value!r} was asked for, but the table has no column {column!r}")
    found = list(dict.fromkeys(table[column].astype(str)))
    shown = ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
    if value is None:
        if len(found) > 1:
            raise ValueError(f"the table holds several values of {column!r} ({shown}); pass {column}=...")
        return table
    if value not in found:
        raise ValueError(f"no row has {column}={value!r}; the table has: {shown or 'none'}")
    return table[(table[column].astype(str) == value).to_numpy()]
