"""What a command sets for the time it runs, and puts back afterwards."""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from graph_pes.memory import keep_freed_memory
from graph_pes.models.io import ModelFileError
from graph_pes.training.config import TorchConfig
from graph_pes.training.config_files import ConfigError
from graph_pes.training.messages import logger, messages_on_terminal

#: Mistakes in the input: one line says what is wrong, no traceback is needed.
MISTAKES = (
    ConfigError,
    ModelFileError,
    MisconfigurationException,
    ValueError,
    OSError,
    ImportError,
)


@contextmanager
def numerical_settings(torch_config: TorchConfig, seed: int) -> Iterator[None]:
    """Default dtype, precision of matrix products and seeds, for the time of a block."""
    dtype, precision = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    torch.set_default_dtype(getattr(torch, torch_config.dtype))
    torch.set_float32_matmul_precision(torch_config.float32_matmul_precision)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - other people's code may draw from it
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_float32_matmul_precision(precision)


@contextmanager
def without_advice() -> Iterator[None]:
    """Hide Lightning's advice on how to use it, which is not for users of graph-pes."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    # Some of Lightning's modules have loggers with a level of their own.
    distributed = logging.getLogger("lightning_fabric.utilities.distributed")
    levels = {x: x.level for x in (*loggers, distributed)}
    for x in levels:
        x.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in (
            ".*does not have many workers.*",
            ".*smaller than the logging interval.*",
            ".*exists and is not empty.*",
            ".*`LightningModule` logged.*",
            ".*treespec.*LeafSpec.*",
            ".*isinstance.*LeafSpec.*",
            # Validation metrics are summed over processes before they are logged.
            ".*recommended to use `self.log.*sync_dist=True.*",
            ".*Grad strides do not match bucket view strides.*",
        ):
            warnings.filterwarnings("ignore", message)
        try:
            yield
        finally:
            for x, level in levels.items():
                x.setLevel(level)


def config_arguments(description: str, argv: list[str] | None) -> list[str]:
    """Configuration files and overrides from the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "config",
        nargs="+",
        metavar="FILE.yaml | a/b/c=value",
        help="configuration files and single values, merged from left to right",
    )
    return parser.parse_args(argv).config


def run_command(command: Callable[[], object]) -> None:
    """Run a command; mistakes in its input end it with one message, and exit code 1.

    Classes of one's own are imported from the working directory too.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    keep_freed_memory()
    with messages_on_terminal("INFO"):
        try:
            command()
        except torch.OutOfMemoryError as error:
            logger.error("%s. A smaller batch_size in loader_kwargs needs less memory.", error)
            sys.exit(1)
        except MISTAKES as error:
            logger.debug("%s", traceback.format_exc())
            logger.error("%s", _message(error))
            sys.exit(1)


def _message(error: BaseException) -> str:
    """What is wrong; without the traceback that torch adds to errors in a loader's worker."""
    text, name = str(error), f"{type(error).__name__}: "
    if "Original Traceback" in text and name in text:
        text = text[text.rindex(name) + len(name) :]
    return text.strip()
