"""The logger of the package, and where its messages go."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger("graph_pes")


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"[graph-pes {record.levelname}]: {super().format(record)}"


class _Terminal(logging.StreamHandler):
    """Writes to whatever ``sys.stdout`` is at the time."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stdout
        super().emit(record)


@contextmanager
def messages_on_terminal(level: str) -> Iterator[None]:
    """Show messages from a level on, as ``[graph-pes LEVEL]: message``, while a block runs.

    Inside of another such block, this one's level counts.
    """
    outer = [h for h in logger.handlers if isinstance(h, _Terminal)]
    for handler in outer:
        logger.removeHandler(handler)
    try:
        with _handler(_Terminal(), level):
            yield
    finally:
        for handler in outer:
            logger.addHandler(handler)


@contextmanager
def messages_in_file(path: Path) -> Iterator[None]:
    """Write every message, debugging ones too, to the end of a file while a block runs.

    So is the traceback of an error that ends the block.
    """
    with _handler(logging.FileHandler(path, encoding="utf-8"), "DEBUG") as handler:
        try:
            yield
        except BaseException:
            record = logger.makeRecord(
                logger.name, logging.ERROR, "", 0, traceback.format_exc(), (), None
            )
            handler.emit(record)
            raise


@contextmanager
def _handler(handler: logging.Handler, level: str) -> Iterator[logging.Handler]:
    before = logger.level, logger.propagate
    handler.setLevel(level)
    handler.setFormatter(_OneLine())
    logger.addHandler(handler)
    logger.setLevel("DEBUG")
    logger.propagate = False
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        handler.close()
        logger.setLevel(before[0])
        logger.propagate = before[1]
