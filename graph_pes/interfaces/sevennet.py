"""SevenNet: models of the architecture of NequIP, trained on whole databases of materials."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import AtomicGraph, PropertyKey
from graph_pes.models import AdditionModel, NequIP
from graph_pes.models.base import GraphPESModel
from graph_pes.nn.equivariant import SILU_GAIN
from graph_pes.nn.irreps import clebsch_gordan, parse_irreps
from graph_pes.nn.per_element import AtomicOneHot
from graph_pes.nn.tensor_product import NeighbourTensorProduct
from graph_pes.periodic_table import SYMBOLS

from . import foreign
from .foreign import Package, Precision, UnsupportedModelError
from .mace_weights import copy_flat
from .plain import plain

SEVENN = Package("sevenn", "sevennet", "mace-torch needs an earlier version of e3nn")

#: Modules that do what we do ourselves: unit vectors of elements, sums and derivatives.
_LEFT_OUT = (
    "onehot_idx_to_onehot",
    "one_hot_modality",
    "reduce_total_enegy",
    "force_output",
)


class SevenNetModel(GraphPESModel):
    """A model of the package sevenn, without the energies of the atoms.

    Parameters
    ----------
    settings
        What of its configuration is needed to make it.
    modal
        Which of its data sets, for a model of several.

    Raises
    ------
    ImportError
        If sevenn is not installed.
    ValueError
        If there is no such data set, or none was chosen.
    """

    calls_package = "sevenn"

    def __init__(self, settings: Mapping[str, Any], modal: str | None = None):
        super().__init__(settings["cutoff"], implemented_properties=["local_energies"])
        self.one_hot = AtomicOneHot(_elements(settings))
        self.network = foreign.made(lambda: _network(settings))
        self.modal = _which(settings, modal)
        self.n_modals = len(settings.get("_modal_map") or {})

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Local energies (N,)."""
        _, _, vectors = foreign.edges_of(graph)
        batch, S = foreign.structures_of(graph)
        elements = self.one_hot(graph.Z)
        data = {
            "x": elements.to(vectors.dtype),
            "node_attr": elements.to(vectors.dtype),
            "atom_type": elements.argmax(dim=1),
            "edge_index": graph.neighbour_list,
            "edge_vec": vectors,
            "batch": batch,
        }
        if self.modal is not None:
            data["modal_type"] = torch.full((S,), self.modal, device=batch.device)
            chosen = torch.nn.functional.one_hot(data["modal_type"], self.n_modals)
            data["modal_attr"] = chosen.to(vectors.dtype)
        for module in self.network.children():
            data = module(data)
        return {"local_energies": data["atomic_energy"].flatten()}


def _elements(settings: Mapping[str, Any]) -> list[str]:
    """Symbols of the elements, in their order."""
    places = settings["_type_map"]
    return [SYMBOLS[Z] for Z in sorted(places, key=places.__getitem__)]


def _which(settings: Mapping[str, Any], modal: str | None) -> int | None:
    """The number of a data set."""
    known = settings.get("_modal_map") or {}
    if not known and modal is None:
        return None
    if modal is None or not known:
        raise ValueError(f"modal: expected one of {sorted(known) or [None]}, got {modal!r}")
    return known[foreign.one_of(modal, known, "modal")]


def _network(settings: Mapping[str, Any]) -> nn.Module:
    """The modules that are called, with random weights."""
    e3nn = Package("e3nn", SEVENN.extra, SEVENN.conflict).load()
    build = SEVENN.load("model_build").build_E3_equivariant_model
    before = e3nn.get_optimization_defaults()
    # Code that is not scripted can be copied, differentiated twice and traced.
    e3nn.set_optimization_defaults(jit_script_fx=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = build(dict(settings))
    finally:
        e3nn.set_optimization_defaults(**before)
    for name in _LEFT_OUT:
        if name in network._modules:
            del network._modules[name]
    return nn.Sequential(network._modules)


class _Read(dict):
    """Remembers which keys were asked for."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__(config)
        self.keys_read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.keys_read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.keys_read.add(key)
        return super().get(key, default)


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of the configuration of a checkpoint is needed to make the model, as plain values."""
    read = _Read(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        SEVENN.load("model_build").build_E3_equivariant_model(read)
    return {key: plain(config[key]) for key in sorted(read.keys_read & config.keys())}


def native_sevennet(settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> NequIP:
    """Our `NequIP` with the weights of a model of SevenNet, in double precision.

    Energies of atoms are left out. Two linear maps, one after the other, are read out in theirs;
    they are one in ours.

    Raises
    ------
    UnsupportedModelError
        If it has parts that our model does not have.
    """
    _check(settings)
    first, *others = settings["weight_nn_hidden_neurons"]
    irreps = settings["irreps_manual"]
    degrees = range(1 + max(settings["lmax"], settings["lmax_edge"]))
    cutoff_function = dict(settings["cutoff_function"])
    with foreign.default_dtype(torch.float64), torch.random.fork_rng(devices=[]):
        model = NequIP(
            elements=_elements(settings),
            cutoff=settings["cutoff"],
            layers=settings["num_convolution_layer"],
            features={
                "node_irreps": irreps[1],
                "edge_irreps": "+".join(f"{l}e" for l in degrees),
            },
            self_interaction=_self_interaction(settings),  # type: ignore[arg-type]
            neighbour_aggregation="constant_fixed",
            radial_features=settings["radial_basis"]["bessel_basis_num"],
            weights_mlp={"hidden_depth": len(others) + 1, "hidden_features": first},
            envelope_onset=cutoff_function.get("cutoff_on"),
        )
    made = [model.representation.layers[0].irreps_in]  # type: ignore[union-attr]
    made += [layer.irreps_out for layer in model.representation.layers]  # type: ignore[misc]
    if made != [parse_irreps(text) for text in irreps]:
        raise UnsupportedModelError(
            f"our NequIP has features {[str(x) for x in made]}, this model has {irreps}: use "
            "native=False"
        )
    _copy(model, settings, {key: W.double() for key, W in state.items()})
    return model


def _self_interaction(settings: Mapping[str, Any]) -> str:
    kinds = settings["self_connection_type"]
    kinds = {kinds} if isinstance(kinds, str) else set(kinds)
    if len(kinds) != 1 or not kinds <= {"linear", "nequip"}:
        raise UnsupportedModelError(f"self_connection_type: expected one kind, got {kinds}")
    return "linear" if kinds == {"linear"} else "tensor_product"


def _check(settings: Mapping[str, Any]) -> None:
    """That our model is made of the same parts."""
    cutoff = settings["cutoff_function"]
    parts = {
        "is_parity": settings["is_parity"] is False,
        "irreps_manual": bool(settings.get("irreps_manual")),
        "radial_basis": settings["radial_basis"]["radial_basis_name"] == "bessel",
        "cutoff_function": cutoff["cutoff_function_name"] == "XPLOR"
        or cutoff.get("poly_cut_p_value") == 6,
        "use_bias_in_linear": not settings["use_bias_in_linear"],
        "readout_as_fcn": settings["readout_as_fcn"] is False,
        "act_radial": settings["act_radial"] == "silu",
        "act_scalar": settings["act_scalar"]["e"] == "silu",
        "act_gate": settings["act_gate"]["e"] == "silu",
        "_normalize_sph": settings["_normalize_sph"] is True,
        "use_modality": not settings.get("use_modality", False),
        "weight_nn_hidden_neurons": len(set(settings["weight_nn_hidden_neurons"])) == 1,
    }
    for key, supported in parts.items():
        if not supported:
            raise UnsupportedModelError(
                f"our NequIP has no {key}={settings.get(key)!r}: use native=False"
            )


@torch.no_grad()
def _copy(model: NequIP, settings: Mapping[str, Any], W: Mapping[str, Tensor]) -> None:
    """Copy all weights but the energies of atoms."""
    one_hot, representation = model.representation.attributes, model.representation
    assert isinstance(one_hot, AtomicOneHot)
    numbers = one_hot.numbers
    embedding = W["onehot_to_feature_x.linear.weight"].view(len(numbers), -1)
    values = representation.embedding.embeddings.values
    values[numbers] = embedding / math.sqrt(len(numbers))
    representation.radial.frequencies.copy_(W["edge_embedding.basis_function.coeffs"])
    for n, module in enumerate(representation.layers):
        layer: Any = module
        at = f"{n}_convolution."
        for k, linear in enumerate(layer.weights.mlp.linear_layers):
            matrix = W[f"{at}weight_nn.layer{k}.weight"]
            if k == len(layer.weights.mlp.linear_layers) - 1:
                matrix = matrix * signs_of_paths(layer.product, W, f"{at}convolution.")
            # Their radial functions are normalised by 2 / r_c, ours by its root.
            gain = SILU_GAIN if k > 0 else math.sqrt(2 / settings["cutoff"])
            linear.weight.copy_(matrix.T * (gain / math.sqrt(len(matrix))))
        layer.aggregation.scale.copy_(W[f"{at}denominator"].squeeze(0))
        copy_flat(layer.pre_linear.weights, W[f"{n}_self_interaction_1.linear.weight"])
        copy_flat(layer.post_linear.weights, W[f"{n}_self_interaction_2.linear.weight"])
        kind = "linear" if _self_interaction(settings) == "linear" else "fc_tensor_product"
        own = W[f"{n}_self_connection_intro.{kind}.weight"]
        copy_flat(layer.self_interaction.weights, own)
    (matrix,) = model.head.energies.weights
    last = W["reduce_hidden_to_energy.linear.weight"].view(-1, 1)
    hidden = W["reduce_input_to_hidden.linear.weight"].view(len(matrix), len(last))
    matrix.copy_(hidden @ last / math.sqrt(len(last)))
    scaling = model.head.scaler.per_element_scaling
    scaling.values[numbers] = W["rescale_atomic_energy.scale"].expand(len(numbers))
    scaling.register_elements(numbers)


def signs_of_paths(product: NeighbourTensorProduct, W: Mapping[str, Tensor], at: str) -> Tensor:
    """Of each weight of a tensor product, 1 or -1, as versions of e3nn differ in that.

    Parameters
    ----------
    product
        Ours.
    W, at
        Their state, which holds the coupling coefficients, and the name of their product.
    """
    signs: list[float] = []
    for path in product.paths.paths:
        mul_irs = (
            product.irreps_in[path.source],
            product.harmonics[path.harmonic],
            product.irreps_out[path.target],
        )
        degrees = [mul_ir.ir.l for mul_ir in mul_irs]
        sign = 1.0
        if sum(degrees) % 2:
            name = "_".join(str(l) for l in degrees)
            theirs = W[f"{at}_compiled_main_left_right._w3j_{name}"]
            sign = 1.0 if float((theirs * clebsch_gordan(*degrees)).sum()) > 0 else -1.0
        signs += [sign] * path.channels
    return torch.tensor(signs, dtype=torch.float64)


def sevennet(
    model: str | os.PathLike[str] = "7net-0",
    modal: str | None = None,
    precision: Precision | None = None,
    native: bool = False,
) -> AdditionModel:
    """A model of SevenNet, for 89 elements; Park et al., doi:10.1021/acs.jctc.4c00190.

    Parameters
    ----------
    model
        ``"7net-0"``, ``"7net-l3i5"``, ``"7net-mf-0"``, whose weights come with the package, the
        name of another one, which it downloads, or the path of a checkpoint of one's own.
    modal
        The data set whose level of theory is predicted, for models of several, ``"PBE"`` or
        ``"R2SCAN"`` of ``"7net-mf-0"`` for instance.
    precision
        ``"float32"``, that of the files, or ``"float64"``.
    native
        Whether to convert the weights to our own `NequIP`. Files of it need no sevenn.

    Returns
    -------
    AdditionModel
        The sum of ``network``, a `SevenNetModel` or `NequIP`, and ``offset``, the energies of
        the atoms, in evaluation mode.

    Raises
    ------
    ImportError
        If sevenn is not installed.
    UnsupportedModelError
        If, with ``native``, the model has parts that `NequIP` has not.
    """
    checkpoints = SEVENN.load("checkpoint")
    path = os.fspath(model)
    if not os.path.exists(path):
        path = SEVENN.load("util").pretrained_name_to_path(path)
    checkpoint = checkpoints.SevenNetCheckpoint(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = checkpoint.build_model()
    return from_sevenn(network, checkpoint.config, modal, precision, native)


def from_sevenn(
    network: nn.Module,
    config: Mapping[str, Any],
    modal: str | None = None,
    precision: Precision | None = None,
    native: bool = False,
) -> AdditionModel:
    """A model of the package sevenn that is in memory.

    Parameters
    ----------
    network, config
        What ``sevenn.model_build.build_E3_equivariant_model`` makes, and of which configuration.
    modal, precision, native
        See `sevennet`.
    """
    settings = settings_of(config)
    state = {key: value.detach().cpu().clone() for key, value in network.state_dict().items()}
    which, elements = _which(settings, modal), _elements(settings)
    shift = state["rescale_atomic_energy.shift"]
    energies = (shift if which is None or shift.dim() < 2 else shift[which]).expand(len(elements))
    of_atoms = dict(zip(elements, energies.double().tolist(), strict=True))
    state["rescale_atomic_energy.shift"] = torch.zeros_like(shift)
    wrapped: GraphPESModel
    if native:
        wrapped = native_sevennet(settings, state)
    else:
        wrapped = SevenNetModel(settings, modal)
        foreign.load_weights(wrapped.network, state, "sevenn")
    dtype = next(network.parameters()).dtype
    return foreign.with_energies_of_atoms(wrapped, of_atoms, precision, dtype)
