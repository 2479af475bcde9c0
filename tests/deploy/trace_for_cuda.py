"""Trace models for "cuda", and print where everything is that they compute.

    python -m tests.deploy.trace_for_cuda LIBRARY NAME...

LIBRARY is pretended_gpu.cpp, compiled. Prints JSON: of each model of ``tests/conformance``, the
devices.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys


def devices_of(name: str) -> list[str]:
    """Devices of all tensors in the traced program of a model, with tables and derivatives."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    from graph_pes.deploy.engine import EngineModel
    from graph_pes.deploy.radial_tables import with_radial_tables
    from graph_pes.deploy.trace import (
        TRACED,
        example_inputs,
        example_structure,
        tensors_of,
        traced_function,
    )
    from tests.conformance.models import MODELS

    model = next(row for row in MODELS if row.name == name).factory().eval()
    model = with_radial_tables(model, tolerance=1.0)[0].requires_grad_(False)
    module = EngineModel(model)
    inputs = (*example_inputs(model, **TRACED), *example_structure(module, TRACED["atoms"]))
    mode = FakeTensorMode(shape_env=ShapeEnv())

    def there(x: torch.Tensor) -> torch.Tensor:
        with mode:
            return mode.from_tensor(x).to("cuda")

    tensors = [there(x) for x in tensors_of(module)]
    traced = traced_function(module, [there(x) for x in inputs], tensors)
    values = [node.meta.get("val") for node in traced.graph.nodes]
    return sorted({str(x.device) for x in values if isinstance(x, torch.Tensor)})


if __name__ == "__main__":
    library, *names = sys.argv[1:]
    ctypes.CDLL(library)
    print(json.dumps({name: devices_of(name) for name in names}), flush=True)
    os._exit(0)  # threads of a device that does not exist can't be ended
