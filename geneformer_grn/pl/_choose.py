"""What the plotting verbs share: choosing the rows of one group, method or source."""

from __future__ import annotations

import pandas as pd


def choose_rows(table: pd.DataFrame, column: str, value: str | None) -> pd.DataFrame:
    """Return the rows of `table` whose `column` is `value`; all rows where `value` is None.

    Raises
    ------
    ValueError
        `value` is None and the column holds several, or no row has `value`.
    """
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
