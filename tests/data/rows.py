"""Rows of examples as sets."""


def row_set(rows):
    """The bytes of each row."""
    return {row.tobytes() for row in rows}


def have_common_rows(first, second):
    """Whether a row of one array is in the other one too."""
    return bool(row_set(first) & row_set(second))
