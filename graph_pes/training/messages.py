"""The logger of the package, and where its messages go."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

logger = logging.getLogger("graph_pes")


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"[graph-pes {record.levelname}]: {super().format(record)}"


def log_to_terminal(level: str) -> None:
    """Show messages from a level on, as ``[graph-pes LEVEL]: message``."""
    _replace_handler("terminal", logging.StreamHandler(sys.stdout), level)


def log_to_file(path: Path) -> None:
    """Write every message, debugging ones too, to a file."""
    _replace_handler("file", logging.FileHandler(path, encoding="utf-8"), "DEBUG")


def _replace_handler(name: str, handler: logging.Handler, level: str) -> None:
    for old in [h for h in logger.handlers if h.name == name]:
        logger.removeHandler(old)
        old.close()
    handler.name = name
    handler.setLevel(level)
    handler.setFormatter(_OneLine())
    logger.addHandler(handler)
    logger.setLevel("DEBUG")
    logger.propagate = False
