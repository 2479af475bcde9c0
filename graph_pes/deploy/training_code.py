"""Programs for training: what a model predicts, and derivatives with respect to its parameters.

The operations of the model, of the derivative of its energy, and of the derivatives of both with
respect to parameters are recorded while autograd itself carries them out, so that they are those
of training without compilation. They are then cut in two: a program that predicts, and keeps
some of what it computed, and one that goes on from there when the derivatives of the loss are
known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch.autograd.function import once_differentiable
from torch.fx.experimental.proxy_tensor import make_fx

from graph_pes.files import atomic_write

from .trace import reported
from .training_function import TrainingFunction, example_batch, example_gradients

if TYPE_CHECKING:
    from torch._inductor import CompiledArtifact
    from torch._subclasses import FakeTensorMode

#: Sizes to trace with, all different. What is fast, and how sums are kept accurate, is decided
#: for them: they are as large as those of batches.
ATOMS, COLUMNS, STRUCTURES, PAIRS = 131, 37, 17, 1009

#: These vary from batch to batch, in the first two dimensions of tensors.
VARYING = (ATOMS, COLUMNS, STRUCTURES, STRUCTURES + 1, PAIRS)

#: As for `graph_pes.deploy.export.compile_program`: what adds up the same way each time is also
#: faster. Products of matrices take as many threads as torch has.
CODE_OPTIONS = {"cpp.threads": 1}

#: Files of the two programs, and of their layout.
PROGRAMS, LAYOUT = ("forward", "backward"), "layout.pt"


@dataclass(frozen=True)
class Layout:
    """What goes in and out of the two programs.

    Attributes
    ----------
    n_outputs
        How many outputs come before what the first program keeps for the second one.
    differentiated
        Positions, among the tensors of the training function, of those whose gradients the second
        program returns. Others have none.
    constants
        Further inputs, before all others.
    """

    n_outputs: int
    differentiated: tuple[int, ...]
    constants: tuple[Tensor, ...] = ()


def joint_program(function: TrainingFunction) -> tuple[fx.GraphModule, Layout]:
    """Everything in one program: from tensors, inputs and derivatives to outputs and gradients.

    Raises
    ------
    ExportError
        If the operations depend on the values of tensors, or the sizes of a batch.
    """
    names, tensors = zip(*function.named_tensors(), strict=True)
    trained = [n for n, x in enumerate(tensors) if x.requires_grad]
    sizes = (ATOMS, COLUMNS, STRUCTURES)
    inputs = example_batch(function, *sizes, PAIRS)
    gradients = example_gradients(function, *sizes)
    used: list[int] = []

    def joint(*arguments: Tensor) -> list[Tensor]:
        given = enumerate(arguments[: len(names)])
        own = [x.detach().requires_grad_(n in trained) for n, x in given]
        rest = arguments[len(names) :]
        named = dict(zip(names, own, strict=True))
        outputs = torch.func.functional_call(function, named, rest[: len(inputs)])
        pairs = zip(outputs, rest[len(inputs) :], strict=True)
        differentiable = [(x, g) for x, g in pairs if x.requires_grad]
        found = _gradients_of(differentiable, [own[n] for n in trained])
        used[:] = [n for n, g in zip(trained, found, strict=True) if g is not None]
        return [*(x.detach() for x in outputs), *(g for g in found if g is not None)]

    with reported(function.model):
        program, constants = _recorded(joint, tensors, inputs, gradients)
    return program, Layout(len(function.outputs), tuple(used), constants)


def _gradients_of(
    outputs: Sequence[tuple[Tensor, Tensor]], tensors: Sequence[Tensor]
) -> Sequence[Tensor | None]:
    if not outputs or not tensors:
        return [None] * len(tensors)
    values, gradients = zip(*outputs, strict=True)
    return torch.autograd.grad(values, tensors, gradients, allow_unused=True)


def _recorded(
    function: Callable[..., list[Tensor]],
    tensors: Sequence[Tensor],
    inputs: Sequence[Tensor],
    gradients: Sequence[Tensor],
) -> tuple[fx.GraphModule, tuple[Tensor, ...]]:
    """The operations of a function of tensors of fixed sizes, and of others of any size."""
    from torch._dispatch.python import enable_python_dispatcher
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    fixed = [mode.from_tensor(x, static_shapes=True) for x in tensors]
    varying = [_of_any_size(mode, x) for x in (*inputs, *gradients)]
    with mode, enable_python_dispatcher():
        program = _simplified(make_fx(function)(*fixed, *varying), *fixed, *varying)
    _check_sizes(varying)
    constants = _as_inputs(program, mode)
    first_gradient = len(constants) + len(tensors) + len(inputs)
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    for n, node in enumerate(placeholders):  # the names by which torch tells them apart
        late = n - first_gradient
        node.name = node.target = f"primals_{n + 1}" if late < 0 else f"tangents_{late + 1}"
    program.recompile()
    return program, constants


def _as_inputs(program: fx.GraphModule, mode: FakeTensorMode) -> tuple[Tensor, ...]:
    """Make inputs, the first ones, of the constants of a program: torch does not keep them."""
    nodes = [node for node in program.graph.nodes if node.op == "get_attr"]
    constants = tuple(getattr(program, str(node.target)) for node in nodes)
    with program.graph.inserting_before(next(iter(program.graph.nodes))):
        for n, (node, constant) in enumerate(zip(nodes, constants, strict=True)):
            replacement = program.graph.placeholder(f"constant_{n}")
            replacement.meta["val"] = mode.from_tensor(constant, static_shapes=True)
            node.replace_all_uses_with(replacement)
            program.graph.erase_node(node)
    return constants


def _simplified(program: fx.GraphModule, *arguments: Tensor) -> fx.GraphModule:
    """The same by fewer kinds of operations, none of them in place."""
    from torch._inductor.decomposition import select_decomp_table

    program.graph.eliminate_dead_code()
    program.recompile()
    pure = torch.func.functionalize(program, remove="mutations")
    return make_fx(pure, decomposition_table=select_decomp_table())(*arguments)


def _of_any_size(mode: FakeTensorMode, x: Tensor) -> Tensor:
    """A tensor to record with, of any number of atoms, columns, pairs and structures."""
    from torch.fx.experimental.symbolic_shapes import DimDynamic, StatelessSymbolicContext

    sizes = [
        DimDynamic.DUCK if dim < 2 and size in VARYING else DimDynamic.STATIC
        for dim, size in enumerate(x.shape)
    ]
    return mode.from_tensor(x, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes))


def _check_sizes(tensors: Sequence[Tensor]) -> None:
    for x in tensors:
        for size in x.shape:
            if isinstance(size, torch.SymInt) and size.node.maybe_as_int() in VARYING:
                raise ValueError(
                    f"a number of atoms, neighbours, pairs or structures is fixed to {size}"
                )


Program = Callable[..., Sequence[Any]]


@dataclass(frozen=True)
class TrainingCode:
    """The two programs.

    Attributes
    ----------
    forward
        From constants, tensors of the training function and inputs to outputs, and then what is
        kept: tensors and numbers.
    backward
        From kept numbers, kept tensors and derivatives with respect to the outputs to gradients.
    layout
        Which is which.
    """

    forward: Program
    backward: Program
    layout: Layout

    def __call__(self, tensors: Sequence[Tensor], inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The outputs, which can be differentiated with respect to the tensors."""
        return _Call.apply(self, inputs, *tensors)


class _Call(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, code: TrainingCode, inputs: Sequence[Tensor], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        results = code.forward(*code.layout.constants, *tensors, *inputs)
        n = code.layout.n_outputs
        ctx.code, ctx.n_tensors = code, len(tensors)
        ctx.save_for_backward(*(x for x in results[n:] if isinstance(x, Tensor)))
        ctx.numbers = [x for x in results[n:] if not isinstance(x, Tensor)]
        return tuple(results[:n])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        given = [g.contiguous() for g in gradients]
        found = ctx.code.backward(*ctx.numbers, *ctx.saved_tensors, *given)
        result: list[Tensor | None] = [None] * ctx.n_tensors
        for n, gradient in zip(ctx.code.layout.differentiated, found, strict=True):
            result[n] = gradient
        return None, None, *result


def compile_programs(function: TrainingFunction, folder: Path) -> TrainingCode:
    """Record, cut and compile a training function, and keep the code in a folder."""
    joint, layout = joint_program(function)
    forward, backward = (machine_code(program) for program in cut(joint, layout))
    for name, code in zip(PROGRAMS, (forward, backward), strict=True):
        code.save(path=str(folder / name))
    with atomic_write(folder / LAYOUT) as file:  # the last one: all is there
        torch.save(asdict(layout), file)
    return TrainingCode(forward, backward, layout)


def load_programs(folder: Path) -> TrainingCode | None:
    """What `compile_programs` kept, if that is all there."""
    from torch._inductor import CompiledArtifact

    if not (folder / LAYOUT).is_file():
        return None
    layout = Layout(**torch.load(folder / LAYOUT, weights_only=True))
    forward, backward = (CompiledArtifact.load(path=str(folder / name)) for name in PROGRAMS)
    return TrainingCode(forward, backward, layout)


def cut(joint: fx.GraphModule, layout: Layout) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The two programs, before they are compiled."""
    from torch._guards import TracingContext, tracing
    from torch._inductor.compile_fx import partition_fn

    nodes = [node for node in joint.graph.nodes if node.op == "placeholder"]
    mode = nodes[0].meta["val"].fake_mode
    late = [node for node in nodes if node.name.startswith("tangents")]
    given = [[node.meta["val"] for node in part] for part in (nodes[: -len(late)], late)]
    with tracing(TracingContext(mode)):
        forward, backward = partition_fn(joint, given, num_fwd_outputs=layout.n_outputs)
    with mode:
        _keep_dense(forward, backward)
    return forward, backward


def _keep_dense(forward: fx.GraphModule, backward: fx.GraphModule) -> None:
    """Keep copies of tensors that have gaps in memory where compilers return some without.

    Those do not depend on the batch, and are small. What does is a view of what is stored, which
    compilers return as it is: copies of its parts would take as much memory again.
    """
    from torch._prims_common import is_non_overlapping_and_dense_or_false

    output = forward.graph.output_node()
    takers = {node.name: node for node in backward.graph.nodes if node.op == "placeholder"}
    for node in output.all_input_nodes:
        value = node.meta["val"]
        if node.name not in takers or not isinstance(value, Tensor):
            continue
        of_batch = any(isinstance(size, torch.SymInt) for size in value.shape)
        if of_batch or is_non_overlapping_and_dense_or_false(value):
            continue
        with forward.graph.inserting_before(output):
            copy = forward.graph.call_function(
                torch.ops.aten.clone.default, (node,), {"memory_format": torch.contiguous_format}
            )
        copy.meta["val"] = takers[node.name].meta["val"] = value.contiguous()
        output.replace_input_with(node, copy)
    forward.recompile()


def machine_code(program: fx.GraphModule) -> CompiledArtifact:
    """What torch's compiler makes of a program, for any sizes without compiling again."""
    from torch._inductor import standalone_compile

    inputs = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"]
    for node in program.graph.output_node().all_input_nodes:
        node.meta["example_value"] = node.meta["val"]  # where the compiler looks for the sizes
    with torch.no_grad(), torch._inductor.config.patch(CODE_OPTIONS):
        return standalone_compile(program, inputs, dynamic_shapes="from_graph")
