"""Recorded outcomes: the table, its files, its splits, importers for the public formats. Only touching a file needs polars."""

from __future__ import annotations

from junctor.outcomes.reading import read_table
from junctor.outcomes.splitting import Split, split_table
from junctor.outcomes.table import MEASURES, OutcomeTable, normalise
from junctor.outcomes.writing import write_long, write_table

__all__ = ["MEASURES", "OutcomeTable", "Split", "normalise", "read_table", "split_table", "write_long", "write_table"]
