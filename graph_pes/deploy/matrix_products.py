"""Matrix products of programs in fewer bits than the rest, for processors that are made for it."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch.fx import GraphModule, Node

#: Precisions of the factors and results of products: that of the model, or less.
Products = Literal["full", "bfloat16"]

#: Largest error, relative to the largest value, that products of numbers of 8 bits may cause.
BFLOAT16_TOLERANCE = 0.1

_aten = torch.ops.aten
#: Products of two matrices, or of stacks of them, and those to which something is added.
_PLAIN = {_aten.mm.default, _aten.bmm.default}
_ADDED = {_aten.addmm.default: _aten.mm.default, _aten.baddbmm.default: _aten.bmm.default}


def check_products(products: str, dtype: torch.dtype) -> None:
    """Make sure that a model of some precision can have such products.

    Raises
    ------
    ValueError
        Saying what is possible.
    """
    if products not in get_args(Products):
        expected = " or ".join(map(repr, get_args(Products)))
        raise ValueError(f"products: expected {expected}, got {products!r}")
    if products == "bfloat16" and dtype != torch.float32:
        precision = str(dtype).removeprefix("torch.")
        raise ValueError(
            f"products='bfloat16' is for models in float32, and this one is in {precision}: "
            "choose dtype float32 as well"
        )


def round_products(function: GraphModule) -> None:
    """Let all matrix products in float32 of a traced function be in bfloat16.

    The function is changed.

    Examples
    --------
    >>> from torch.fx.experimental.proxy_tensor import make_fx
    >>> a, b = torch.full((1, 1), 1.001), torch.ones(1, 1)
    >>> function = make_fx(torch.mm)(a, b)
    >>> round_products(function)
    >>> function(a, b).item()
    1.0
    """
    graph = function.graph
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target not in (*_PLAIN, *_ADDED):
            continue
        if node.meta["val"].dtype != torch.float32:
            continue
        *addend, a, b = node.args
        scales = dict(node.kwargs)
        with graph.inserting_before(node):
            result = _product(function, _ADDED.get(node.target, node.target), a, b)
            for term in addend:
                result = graph.call_function(_aten.mul.Scalar, (result, scales.get("alpha", 1)))
                term = graph.call_function(_aten.mul.Scalar, (term, scales.get("beta", 1)))
                result = graph.call_function(_aten.add.Tensor, (term, result))
        node.replace_all_uses_with(result)
        graph.erase_node(node)
    function.recompile()


def _product(function: GraphModule, target: torch._ops.OpOverload, a: Node, b: Node) -> Node:
    graph = function.graph
    convert = torch.ops.prims.convert_element_type.default
    factors = tuple(graph.call_function(convert, (x, torch.bfloat16)) for x in (a, b))
    return graph.call_function(convert, (graph.call_function(target, factors), torch.float32))
