"""TensorNets of MatGL, such as those trained on MatPES."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import AtomicGraph, PropertyKey
from graph_pes.models import AdditionModel, TensorNet
from graph_pes.models.base import GraphPESModel
from graph_pes.nn.per_element import AtomicOneHot
from graph_pes.periodic_table import ATOMIC_NUMBERS

from . import foreign
from .downloads import downloaded
from .foreign import Package, Precision, UnsupportedModelError

#: The version that computes what the models were trained to; 4.1.2 is wrong by 1 eV/atom.
VERSION = "2.0.4"
MATGL = Package(
    "matgl",
    "matgl",
    f"only version {VERSION} computes what it should",
    no_deps=f"matgl=={VERSION}",
)

_FILES = "https://github.com/materialsvirtuallab/matgl/raw/main/pretrained_models"
#: The files of each.
FILES = ("model.json", "state.pt")
NAMES = ("TensorNet-MatPES-PBE-v2025.1-PES", "TensorNet-MatPES-r2SCAN-v2025.1-PES")


class MatGLTensorNet(GraphPESModel):
    """A TensorNet of MatGL, without the energies of the atoms.

    Parameters
    ----------
    settings
        The arguments of its class.

    Raises
    ------
    ImportError
        If MatGL is not installed, or in another version than 2.0.4: later ones load the models
        without complaint, and compute something else.
    """

    scale: Tensor

    calls_package = "matgl"

    def __init__(self, settings: Mapping[str, Any]):
        super().__init__(settings["cutoff"], implemented_properties=["local_energies"])
        _check_version()
        self.one_hot = AtomicOneHot(settings["element_types"])
        self.network = foreign.made(lambda: _network(settings))
        self.register_buffer("scale", torch.tensor(1.0))

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Local energies (N,)."""
        i, j, vectors = foreign.edges_of(graph)
        net: Any = self.network
        # There are no positions: what is added to their differences are the vectors.
        g = SimpleNamespace(
            pos=vectors.new_zeros(graph.Z.shape[0], 3),
            pbc_offshift=vectors,
            edge_index=torch.stack([i, j]),
            node_type=self.one_hot(graph.Z).argmax(dim=1),
            num_nodes=graph.Z.shape[0],
        )
        energies: list[Tensor] = []
        handle = net.final_layer.register_forward_hook(
            lambda module, args, result: energies.append(result)
        )
        try:
            net(g)
        finally:
            handle.remove()
        return {"local_energies": energies[0].reshape(-1) * self.scale}


def _check_version() -> None:
    found = MATGL.load().__version__
    if found != VERSION:
        raise ImportError(
            f"matgl {found} is installed, but only {VERSION} is known to give the right energies: "
            f"pip install --no-deps matgl=={VERSION}, or use native=True, which needs none"
        )


def _network(settings: Mapping[str, Any]) -> nn.Module:
    """A TensorNet with random weights."""
    matgl = MATGL.load()
    matgl.set_default_dtype("float", 64)
    arguments = {**settings, "dtype": torch.float64}
    try:
        return MATGL.load("models._tensornet_pyg").TensorNet(**arguments)
    finally:
        matgl.set_default_dtype("float", 32)


#: What `TensorNet` has of the arguments of MatGL's class.
_SUPPORTED: dict[str, Sequence[Any]] = {
    "include_state": [False],
    "rbf_type": ["SphericalBessel"],
    "use_smooth": [True],
    "activation_type": ["swish"],
    "readout_type": ["weighted_atom"],
    "is_intensive": [False],
    "ntargets": [1],
    "equivariance_invariance_group": ["O(3)", "SO(3)"],
}


def native_tensornet(settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> TensorNet:
    """Our `TensorNet` with the weights of MatGL's, in double precision.

    Parameters
    ----------
    settings
        The arguments of its class.
    state
        Its state.

    Raises
    ------
    UnsupportedModelError
        If it has parts that our model does not have.
    """
    for key, allowed in _SUPPORTED.items():
        if settings.get(key, allowed[0]) not in allowed:
            raise UnsupportedModelError(
                f"our TensorNet has no {key}={settings[key]!r}, only {list(allowed)}: use "
                "native=False"
            )
    with foreign.default_dtype(torch.float64), torch.random.fork_rng(devices=[]):
        model = TensorNet(
            cutoff=settings["cutoff"],
            radial_features=settings["max_n"],
            radial_expansion="SmoothBessel",
            channels=settings["units"],
            layers=settings["nblocks"],
            group=settings["equivariance_invariance_group"],
            variant="matgl",
        )
    numbers = [ATOMIC_NUMBERS[symbol] for symbol in settings["element_types"]]
    _copy(model, {key: W.double() for key, W in state.items()}, numbers)
    return model


@torch.no_grad()
def _copy(model: TensorNet, W: Mapping[str, Tensor], numbers: list[int]) -> None:
    """Copy all weights but the scale of the energies."""
    embedding, read_out = model.embedding, model.read_out
    embedding.elements.embeddings.values[numbers] = W["tensor_embedding.emb.weight"]
    # There, the neighbour comes first.
    of_neighbour, of_centre = W["tensor_embedding.emb2.weight"].chunk(2, dim=1)
    embedding.pairs.weight.copy_(torch.cat([of_centre, of_neighbour], dim=1))
    copy_layers(model, W, interleaved=True)
    copy_linear(read_out.linear, W, "linear")
    for mlp, name in ((read_out.mlp, "layers"), (read_out.gates, "gates")):
        for n, layer in enumerate(mlp.linear_layers):  # type: ignore[union-attr]
            copy_linear(layer, W, f"final_layer.gated.{name}.{2 * n}")


@torch.no_grad()
def copy_linear(linear: Any, W: Mapping[str, Tensor], name: str) -> None:
    """Weight and bias of a linear map, or of a normalisation."""
    linear.weight.copy_(W[f"{name}.weight"])
    linear.bias.copy_(W[f"{name}.bias"])


@torch.no_grad()
def copy_in_threes(mlp: Any, W: Mapping[str, Tensor], name: str, interleaved: bool) -> None:
    """An MLP whose last outputs are C for each of I, A and S; or, interleaved, I, A, S for each."""
    *_, last = mlp.linear_layers
    for n, layer in enumerate(mlp.linear_layers):
        for kind, to in (("weight", layer.weight), ("bias", layer.bias)):
            value = W[f"{name}.{n}.{kind}"]
            if layer is last and interleaved:
                value = torch.cat([value[part::3] for part in range(3)])
            to.copy_(value)


@torch.no_grad()
def copy_layers(model: TensorNet, W: Mapping[str, Tensor], *, interleaved: bool) -> None:
    """Copy what TorchMD-Net and MatGL have in common.

    Parameters
    ----------
    model
        Ours.
    W
        Their weights.
    interleaved
        Whether outputs of networks are I, A and S of each channel, as in MatGL.
    """
    embedding, name = model.embedding, "tensor_embedding."
    for kind, to in (("weight", embedding.filters.weight), ("bias", embedding.filters.bias)):
        to.copy_(torch.cat([W[f"{name}distance_proj{n}.{kind}"] for n in (1, 2, 3)]))
    embedding.pairs.bias.copy_(W[f"{name}emb2.bias"])
    copy_linear(embedding.norm, W, f"{name}init_norm")
    copy_in_threes(embedding.scales, W, f"{name}linears_scalar", interleaved)
    # Their vectors point to the central atom: the sign of the antisymmetric part.
    I, A, S = (W[f"{name}linears_tensor.{n}.weight"] for n in range(3))
    embedding.mix.weight.copy_(torch.stack([I, -A, S]))
    for n, module in enumerate(model.interactions):
        interaction: Any = module
        name = f"layers.{n}."
        mixing = torch.stack([W[f"{name}linears_tensor.{m}.weight"] for m in range(6)])
        interaction.mix.weight.copy_(mixing[:3])
        interaction.mix_products.weight.copy_(mixing[3:])
        copy_in_threes(interaction.filters, W, f"{name}linears_scalar", interleaved)
    copy_linear(model.read_out.norm, W, "out_norm")


def matgl_model(
    model: str | os.PathLike[str] = "TensorNet-MatPES-PBE-v2025.1-PES",
    precision: Precision | None = None,
    native: bool = False,
) -> AdditionModel:
    """A TensorNet of MatGL, for 89 elements; Kaplan et al., doi:10.48550/arXiv.2503.04070.

    Parameters
    ----------
    model
        ``"TensorNet-MatPES-PBE-v2025.1-PES"``, ``"TensorNet-MatPES-r2SCAN-v2025.1-PES"``, or a
        folder with the ``model.json`` and ``state.pt`` of one.
    precision
        ``"float32"``, that of the files, or ``"float64"``.
    native
        Whether to convert the weights to our own `TensorNet`, for which MatGL is not needed at
        all. Else, it has to be version 2.0.4.

    Returns
    -------
    AdditionModel
        The sum of ``network``, a `MatGLTensorNet` or `TensorNet`, and ``offset``, the energies
        of the atoms, in evaluation mode.

    Raises
    ------
    ImportError
        If, without ``native``, MatGL is not installed, or in another version.
    UnsupportedModelError
        If it is another kind of model, or has parts that `TensorNet` has not.
    """
    folder = Path(model)
    if not folder.is_dir():
        name = foreign.one_of(os.fspath(model), NAMES)
        files = [downloaded(f"{_FILES}/{name}/{x}", f"{name}/{x}") for x in FILES]
        folder = files[0].parent
    description = json.loads((folder / "model.json").read_text())
    state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    return from_description(description, state, precision, native)


def from_description(
    description: Mapping[str, Any],
    state: Mapping[str, Tensor],
    precision: Precision | None = None,
    native: bool = False,
) -> AdditionModel:
    """A model of the contents of its files.

    Parameters
    ----------
    description, state
        Those of ``model.json`` and ``state.pt``.
    precision, native
        See `matgl_model`.
    """
    potential = description["kwargs"]
    kind = potential["model"]["@class"]
    if description["@class"] != "Potential" or kind != "TensorNet" or potential["calc_repuls"]:
        raise UnsupportedModelError(f"expected a TensorNet without ZBL repulsion, got a {kind}")
    if float(state["data_mean"]) != 0:
        raise UnsupportedModelError("expected energies relative to those of atoms, without a mean")
    settings = {k: v for k, v in potential["model"]["init_args"].items() if k != "dtype"}
    own = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
    network: GraphPESModel
    if native:
        network = native_tensornet(settings, own)
        scaling = network.scaler.per_element_scaling
        numbers = [ATOMIC_NUMBERS[symbol] for symbol in settings["element_types"]]
        with torch.no_grad():
            scaling.values[numbers] = state["data_std"].double()
        scaling.register_elements(numbers)
    else:
        network = MatGLTensorNet(settings)
        foreign.load_weights(network.network, own, "matgl")
        network.scale.fill_(float(state["data_std"]))
    refs = state["element_refs.property_offset"].double().tolist()
    of_atoms = dict(zip(settings["element_types"], refs, strict=True))
    dtype = own["linear.weight"].dtype
    return foreign.with_energies_of_atoms(network, of_atoms, precision, dtype)
