"""Settings of other packages in types that a file without code can hold."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor


def plain(value: Any) -> Any:
    """Numbers, strings, None, and lists and dictionaries of these.

    Tensors and arrays become lists, classes their names, and anything else, such as irreps of
    e3nn, what it prints.

    Examples
    --------
    >>> plain({"cutoff": np.float32(5.0), "sizes": (1, 2), "kind": dict})
    {'cutoff': 5.0, 'sizes': [1, 2], 'kind': 'dict'}
    """
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(x) for key, x in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if type(value) in (list, tuple):
        return [plain(x) for x in value]
    return str(value)
