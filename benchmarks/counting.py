"""How many operations, and how many bytes, an evaluation takes."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch._functorch import config as autograd_config
from torch._inductor import config
from torch._inductor.graph import GraphLowering
from torch._inductor.scheduler import Scheduler
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from graph_pes.deploy.engine import EngineInputs, EngineModel
from graph_pes.deploy.export import DEFAULT_TABLE_TOLERANCES
from graph_pes.deploy.radial_tables import with_radial_tables
from graph_pes.deploy.trace import dtype_of, tensors_of, traced_function
from graph_pes.models import GraphPESModel

#: Operations that neither read nor write, though torch does not call them views.
FREE = ("_unsafe_view", "empty", "empty_like", "new_empty", "empty_strided")


@dataclass
class Counts(TorchDispatchMode):
    """Counts what is done while it is entered.

    A product of matrices counts as torch counts it, any other operation as one flop for each
    number that it returns. Every operation reads what it takes and writes what it returns,
    except for views, which do neither; what caches hold counts like any other memory.

    Attributes
    ----------
    flops, bytes
        By the name of the operation.
    """

    flops: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        outputs = list(_tensors(result))
        name = func.overloadpacket.__name__
        if outputs and not func.is_view and name not in FREE:
            inputs = list(_tensors((args, kwargs)))
            self.bytes[name] += sum(x.numel() * x.element_size() for x in (*inputs, *outputs))
            formula = flop_registry.get(func.overloadpacket)
            if formula is None:
                self.flops[name] += sum(x.numel() for x in outputs)
            else:
                self.flops[name] += formula(*args, **(kwargs or {}), out_val=result)
        return result


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))


def eager_counts(run: Callable[[], object]) -> Counts:
    """What a function does."""
    with Counts() as counts:
        run()
    return counts


class _Counted(Exception):
    """Code need not be generated once bytes are counted."""


def compiled_counts(model: GraphPESModel, inputs: EngineInputs) -> tuple[int, int]:
    """Flops, and bytes that fused loops read and write, of a model compiled for some inputs."""
    tabulated, _ = with_radial_tables(model, DEFAULT_TABLE_TOLERANCES[dtype_of(model)])
    engine_model = EngineModel(copy.deepcopy(tabulated).eval().requires_grad_(False))
    traced = traced_function(engine_model, inputs)
    arguments = (*tensors_of(engine_model), *inputs)
    flops = sum(eager_counts(lambda: traced(*arguments)).flops.values())
    found: list[int] = []

    def count(scheduler: Scheduler) -> None:
        graph: GraphLowering = torch._inductor.virtualized.V.graph
        found.append(graph.count_bytes()[0])
        raise _Counted

    with (
        warnings.catch_warnings(action="ignore"),  # of the compiler, about itself
        mock.patch.object(Scheduler, "codegen", count),
        config.patch(fx_graph_cache=False),  # which would leave nothing to count
        autograd_config.patch(enable_autograd_cache=False),
    ):
        try:
            torch.compile(traced, dynamic=True)(*arguments)
        except Exception:
            if not found:
                raise
    return flops, sum(found)
