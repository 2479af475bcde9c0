"""From a model to a program of tensor operations that has no Python in it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from graph_pes.models.base import GraphPropertyModel
from graph_pes.nn.per_element import AtomicOneHot
from graph_pes.periodic_table import ATOMIC_NUMBERS, symbols_of

from .engine import MIN_COLUMNS, EngineInputs, EngineModel, ExportError, WholeStructure
from .matrix_products import Products, round_products

#: Sizes to trace with, all different, so that no two of them are taken for the same.
TRACED = {"atoms": 37, "columns": 11, "ghosts": 14}


def example_inputs(
    model: GraphPropertyModel,
    atoms: int,
    columns: int,
    ghosts: int = 0,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> EngineInputs:
    """Random neighbours, of elements that the model knows, some beyond its cutoff."""
    generator = torch.Generator().manual_seed(seed)
    shape = (atoms, columns)
    directions = torch.randn(*shape, 3, generator=generator, dtype=torch.float64)
    directions = directions / directions.norm(dim=-1, keepdim=True)
    lengths = 0.3 + 0.8 * torch.rand(*shape, 1, generator=generator, dtype=torch.float64)
    known = torch.tensor(elements_of(model))
    everyone = atoms + ghosts
    return EngineInputs(
        (directions * lengths * max(model.cutoff_value, 1.0)).to(device, dtype_of(model)),
        torch.randint(everyone, shape, generator=generator).to(device),
        known[torch.randint(len(known), (everyone,), generator=generator)].to(device),
        torch.ones(atoms, dtype=torch.float64, device=device),
    )


def example_structure(
    function: EngineModel, atoms: int, seed: int = 0
) -> WholeStructure | tuple[()]:
    """What else a model is to know of a random structure: nothing, if it does not need it all.

    Of even seeds it is periodic, of odd ones a molecule, though in a box.
    """
    if function.whole_structure is None:
        return ()
    generator = torch.Generator().manual_seed(seed)
    R, skew = (torch.rand(n, 3, generator=generator, dtype=torch.float64) for n in (atoms, 3))
    cell = 6 * torch.eye(3, dtype=torch.float64) + skew
    pbc = torch.full((3,), seed % 2 == 0)
    return WholeStructure(*(x.to(function.model.device) for x in (R @ cell, cell, pbc)))


def elements_of(model: GraphPropertyModel) -> list[int]:
    """Atomic numbers of the elements that a model knows, or of any."""
    symbols = known_elements(model) or ["H", "C", "O", "Si"]
    return [ATOMIC_NUMBERS[symbol] for symbol in symbols]


def known_elements(model: GraphPropertyModel) -> list[str]:
    """Symbols of the elements that a model was fitted to, or else made for; none if for any."""
    return model.elements_seen or declared_elements(model)


def declared_elements(model: GraphPropertyModel) -> list[str]:
    """Symbols of the elements that every part of a model was made for; none if for any."""
    declared = [set(m.numbers) for m in model.modules() if isinstance(m, AtomicOneHot)]
    return symbols_of(set.intersection(*declared)) if declared else []


def dtype_of(model: GraphPropertyModel) -> torch.dtype:
    """The precision of a model's geometry; double if it has no parameters."""
    return model.dtype or torch.float64


class _Program(nn.Module):
    """A traced function of tensors and inputs, with the tensors as buffers."""

    def __init__(self, traced: torch.fx.GraphModule, tensors: Sequence[Tensor]):
        super().__init__()
        self.traced = traced
        self.n_tensors = len(tensors)
        for n, tensor in enumerate(tensors):
            self.register_buffer(f"tensor_{n}", tensor.detach().clone())

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        # What is known of sizes: tracing would find it out too late to make use of it.
        vectors, neighbours, _, mask = inputs[:4]
        N, D = neighbours.shape
        torch._check(vectors.shape[0] == N)
        torch._check(vectors.shape[1] == D)
        torch._check(mask.shape[0] == N)
        tensors = [getattr(self, f"tensor_{n}") for n in range(self.n_tensors)]
        return self.traced(*tensors, *inputs)


def traced_program(
    model: GraphPropertyModel, products: Products = "full"
) -> torch.export.ExportedProgram:
    """A model with its derivatives as a program for any number of atoms and neighbours.

    Parameters
    ----------
    model
        The model; it is not changed.
    products
        Precision of matrix products.

    Raises
    ------
    ExportError
        If the model can't be traced: the operations it does depend on values in the graph.
    """
    engine_model = EngineModel(copy.deepcopy(model).eval().requires_grad_(False))
    for tensor in tensors_of(engine_model):
        tensor.data = tensor.contiguous()  # torch takes views of others for incomplete
    inputs = (
        *example_inputs(model, **TRACED, device=model.device),
        *example_structure(engine_model, TRACED["atoms"]),
    )
    traced = traced_function(engine_model, inputs)
    if products == "bfloat16":
        round_products(traced)
    program = _Program(traced, tensors_of(engine_model))
    rows, everyone = (torch.export.Dim(name, min=2) for name in ("N", "M"))
    columns = torch.export.Dim("D", min=MIN_COLUMNS)
    shapes = ({0: rows, 1: columns}, {0: rows, 1: columns}, {0: everyone}, {0: rows})
    of_structure = ({0: rows}, None, None) if engine_model.whole_structure is not None else ()
    with reported(model):
        return torch.export.export(program, inputs, dynamic_shapes=((*shapes, *of_structure),))


def tensors_of(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers, in the order in which a traced function takes them."""
    return [*module.parameters(), *module.buffers()]


def traced_function(
    module: EngineModel, inputs: Sequence[Tensor], tensors: Sequence[Tensor] | None = None
) -> torch.fx.GraphModule:
    """The operations of a module, derivatives it takes included, as a function of tensors.

    It takes the `tensors_of` the module (or what stands for them), then inputs of any sizes.

    Raises
    ------
    ExportError
        If the model can't be traced.
    """
    names = [name for name, _ in [*module.named_parameters(), *module.named_buffers()]]

    def function(*arguments: Tensor) -> tuple[Tensor, ...]:
        own = dict(zip(names, arguments[: len(names)], strict=True))
        return torch.func.functional_call(module, own, arguments[len(names) :])

    make = make_fx(function, tracing_mode="symbolic", _allow_non_fake_inputs=True)
    with reported(module.model):
        return make(*(tensors or tensors_of(module)), *inputs)


@contextmanager
def reported(model: GraphPropertyModel) -> Iterator[None]:
    """Errors, of many kinds that are private to torch, as one; warnings of torch to itself not."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="torch|copyreg")
            yield
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise ExportError(
            f"{type(model).__name__} can't be traced: what its forward does must not depend on "
            f"the values of tensors, only on shapes ({reason})"
        ) from error
