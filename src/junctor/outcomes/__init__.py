"""Recorded outcomes: the table, its files, its splits, and importers for the public formats."""

from __future__ import annotations

from junctor.outcomes.table import MEASURES, OutcomeTable, normalise

__all__ = ["MEASURES", "OutcomeTable", "normalise"]
