"""The board in one place: its data, its JSON document, its print-out."""

from __future__ import annotations

from junctor.bench.document import METRICS, SCHEMA, Board, Row, board_document, load_board
from junctor.bench.terminal import print_board

__all__ = ["METRICS", "SCHEMA", "Board", "Row", "board_document", "load_board", "print_board"]
