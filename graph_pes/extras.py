"""Packages that some models need, and most users do not."""

from __future__ import annotations

import importlib
from types import ModuleType


def optional_package(module: str, extra: str, what: str) -> ModuleType:
    """Import a package that an extra of graph-pes installs.

    Parameters
    ----------
    module
        What is imported.
    extra
        The extra that brings it.
    what
        What needs it, for the error.

    Raises
    ------
    ImportError
        That names the extra to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{what}: pip install 'graph-pes[{extra}]' ({error})") from error
