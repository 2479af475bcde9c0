"""Nequix: small networks of the architecture of NequIP, trained on databases of materials."""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graph_pes.models import AdditionModel, NequIP
from graph_pes.nn.equivariant import SILU_GAIN
from graph_pes.nn.irreps import parse_irreps
from graph_pes.periodic_table import SYMBOLS

from . import foreign
from .downloads import downloaded
from .foreign import Precision, UnsupportedModelError

_AT = "https://github.com/atomicarchitects/nequix/raw/"
#: Where the published files are, and their checksums where they are known.
MODELS: dict[str, tuple[str, str | None]] = {
    "nequix-mp-1": (
        _AT + "7c2854de8e754b1a60274c7d9d2e014989ed632e/models/nequix-mp-1.nqx",
        "1647af8e627e1afa11e2bfadeab0797326513a521afd7dd01606a96f56783eee",
    ),
    **{
        name: (f"{_AT}{commit}/models/{name}.nqx", None)
        for name, commit in {
            "nequix-mp-1-pft": "7c2854de8e754b1a60274c7d9d2e014989ed632e",
            "nequix-mp-1-pft-no-cotrain": "7c2854de8e754b1a60274c7d9d2e014989ed632e",
            "nequix-omat-1": "9c852a9c4cce69ae5e75bc5a2cf670be21ff8c28",
            "nequix-oam-1": "9c852a9c4cce69ae5e75bc5a2cf670be21ff8c28",
            "nequix-oam-1-pft": "9c852a9c4cce69ae5e75bc5a2cf670be21ff8c28",
        }.items()
    },
}


def nequix(
    model: str | os.PathLike[str] = "nequix-mp-1", precision: Precision | None = None
) -> AdditionModel:
    """A Nequix, for 89 elements; Koker et al., doi:10.48550/arXiv.2508.16067.

    Its weights are converted to our own `NequIP`, so that neither the package nequix nor jax are
    needed.

    Parameters
    ----------
    model
        ``"nequix-mp-1"``, trained on MPtrj, ``"nequix-mp-1-pft"``, fine-tuned to phonons too,
        ``"nequix-omat-1"``, ``"nequix-oam-1"``, ``"nequix-oam-1-pft"``, or the path of a file
        ``.nqx``.
    precision
        ``"float32"``, that of the files, or ``"float64"``.

    Returns
    -------
    AdditionModel
        The sum of ``network``, a `NequIP`, and ``offset``, the energies of the atoms, in
        evaluation mode.

    Raises
    ------
    DownloadError
        If the weights are not there and can't be downloaded.
    UnsupportedModelError
        If the file is not one of Nequix, or the model has parts that `NequIP` has not.
    """
    path = Path(model)
    if not path.exists():
        url, sha256 = MODELS[foreign.one_of(os.fspath(model), MODELS)]
        path = downloaded(url, sha256=sha256)
    config, arrays = read_nqx(path)
    numbers = sorted(int(Z) for Z in config["atomic_numbers"])
    energies = arrays[0].astype(np.float64) + config["shift"]
    of_atoms = dict(zip([SYMBOLS[Z] for Z in numbers], energies.tolist(), strict=True))
    dtype = torch.from_numpy(arrays[0]).dtype
    network = native_nequix(config, arrays)
    return foreign.with_energies_of_atoms(network, of_atoms, precision, dtype)


def read_nqx(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Configuration and weights in a file of nequix: a line of JSON, then one array after another.

    Raises
    ------
    UnsupportedModelError
        If it is something else.
    """
    arrays = []
    try:
        with open(path, "rb") as file:
            config = json.loads(file.readline())
            while file.peek(6)[:6] == b"\x93NUMPY":
                arrays.append(np.load(file, allow_pickle=False))
    except ValueError as error:
        raise UnsupportedModelError(f"{path} is not a file of nequix: {error}") from error
    return config, arrays


def native_nequix(config: Mapping[str, Any], arrays: Sequence[np.ndarray]) -> NequIP:
    """Our `NequIP` with the weights of a Nequix, in double precision.

    Energies of atoms, and the shift that is added to them, are left out. What atoms are to begin
    with, unit vectors of their elements, is filled up with zeros.

    Parameters
    ----------
    config, arrays
        As `read_nqx` gives them.

    Raises
    ------
    UnsupportedModelError
        If it has parts that our model does not have.
    """
    _check(config)
    with foreign.default_dtype(torch.float64), torch.random.fork_rng(devices=[]):
        model = NequIP(
            elements=[SYMBOLS[Z] for Z in sorted(config["atomic_numbers"])],
            cutoff=config["cutoff"],
            layers=config["n_layers"],
            features={
                "node_irreps": config["hidden_irreps"],
                "edge_irreps": "+".join(
                    f"{l}{'o' if l % 2 else 'e'}" for l in range(config["lmax"] + 1)
                ),
            },
            self_interaction="tensor_product" if config["index_weights"] else "linear",
            neighbour_aggregation="constant_fixed",
            radial_features=config["radial_basis_size"],
            weights_mlp={
                "hidden_depth": config["radial_mlp_layers"],
                "hidden_features": config["radial_mlp_size"],
            },
            layer_norm=config["layer_norm"],
        )
    weights = iter([torch.from_numpy(array).double() for array in arrays[1:]])
    try:
        _copy(model, config, weights)
    except (RuntimeError, StopIteration) as error:
        raise UnsupportedModelError(
            f"the weights are not those of the configuration: {error}"
        ) from error
    if left := len(list(weights)):
        raise UnsupportedModelError(f"our NequIP lacks {left} arrays of weights of this model")
    return model


def _check(config: Mapping[str, Any]) -> None:
    """That our model is made of the same parts."""
    irreps = parse_irreps(config["hidden_irreps"])
    degrees = [ir.l for _, ir in irreps]
    scalars, elements = irreps.count("0e"), len(config["atomic_numbers"])
    if config["radial_polynomial_p"] != 6:
        raise UnsupportedModelError(
            f"radial_polynomial_p: expected 6, got {config['radial_polynomial_p']}"
        )
    natural = all(ir.p == (-1) ** ir.l for _, ir in irreps)
    highest = config["lmax"]
    if degrees != list(range(len(degrees))) or len(degrees) > highest + 1 or not natural:
        raise UnsupportedModelError(
            f"hidden_irreps: expected one of each degree, up to {highest} at most, of the parity "
            f"of spherical harmonics, got {irreps}"
        )
    if scalars < elements:
        raise UnsupportedModelError(
            f"hidden_irreps: expected no fewer scalars than elements, {elements}, got {irreps}"
        )


@torch.no_grad()
def _copy(model: NequIP, config: Mapping[str, Any], weights: Iterator[Tensor]) -> None:
    """Copy all weights but the energies of atoms, in the order of the file."""
    representation: Any = model.representation
    numbers = torch.tensor(sorted(config["atomic_numbers"]))
    values = representation.embedding.embeddings.values
    values[numbers] = torch.eye(len(numbers), values.shape[1], dtype=values.dtype)
    # They are no parameters there.
    representation.radial.frequencies.requires_grad_(False)
    # What follows on a gate is linear: the ratio of the gains is put there.
    gain = silu_gain() / SILU_GAIN
    for k, layer in enumerate(representation.layers):
        parameters = {
            "radial": [linear.weight for linear in layer.weights.mlp.linear_layers],
            "pre": list(layer.pre_linear.weights),
            "post": list(layer.post_linear.weights),
            "own": list(layer.self_interaction.weights),
            "norm": list(layer.norm.weights) if config["layer_norm"] else [],
        }
        found = {key: [next(weights) for _ in some] for key, some in parameters.items()}
        found = _as_ours(found, layer, config, gain, first=k == 0)
        for key, some in parameters.items():
            for parameter, W in zip(some, found[key], strict=True):
                parameter.copy_(W)
        layer.aggregation.scale.fill_(math.sqrt(config["avg_n_neighbors"]))
    model.head.energies.weights[0].copy_(next(weights) * gain)
    scaling = model.head.scaler.per_element_scaling
    scaling.values[numbers] = config["scale"]
    scaling.register_elements(numbers.tolist())


_Weights = dict[str, list[Tensor]]


def _as_ours(
    weights: _Weights, layer: Any, config: Mapping[str, Any], gain: float, first: bool
) -> _Weights:
    """Theirs of one layer, shaped and scaled as ours are."""
    radial, pre, post, own = (weights[key] for key in ("radial", "pre", "post", "own"))
    n = len(config["atomic_numbers"])
    # Their radial functions are normalised by 2 / r_c, ours by its root.
    radial = [radial[0] * math.sqrt(2 / config["cutoff"]), *radial[1:]]
    if first:
        # As many channels as there are elements; ours are divided by the root of their number.
        channels = layer.irreps_in.dim
        gain = math.sqrt(channels / n)
        radial[-1] = _filled_up(radial[-1], 1, n, channels)
        pre = [_filled_up(_filled_up(W, 0, n, channels), 1, n, channels) for W in pre]
        post = [_filled_up(W, 0, n, channels) * gain for W in post]
        own = [_filled_up(W, W.dim() - 2, n, channels) for W in own]
    if config["index_weights"]:  # ours are divided by the root of the number of elements too
        own = [W * math.sqrt(n) for W in own]
    norm = weights["norm"]
    if config["layer_norm"]:
        # There, the squares of an irrep of degree l are summed over channels, and divided by
        # (2l + 1)²; ours is their mean. Features are scaled before it, and back after it.
        sizes = {ir: math.sqrt(mul / ir.dim) for mul, ir in layer.norm.irreps}
        post, own = (
            [W * sizes[ir] for W, (_, ir) in zip(some, linear.irreps_out, strict=True)]
            for some, linear in ((post, layer.post_linear), (own, layer.self_interaction))
        )
        norm = [W / size for W, size in zip(norm, sizes.values(), strict=True)]
    return {
        "radial": [W.T for W in radial],
        "pre": [W * gain for W in pre],
        "post": post,
        "own": [W * gain for W in own],
        "norm": norm,
    }


def _filled_up(W: Tensor, dim: int, n: int, channels: int) -> Tensor:
    """With zeros, so that there are more channels than n in each block along a dimension."""
    blocks = W.unflatten(dim, (-1, n)).movedim(dim + 1, -1)
    filled = nn.functional.pad(blocks, (0, channels - n))
    return filled.movedim(-1, dim + 1).flatten(dim, dim + 1)


@functools.cache
def silu_gain() -> float:
    """What SiLU is multiplied by in e3nn-jax: an average over quantiles of normal numbers.

    Examples
    --------
    >>> round(silu_gain(), 5)
    1.67656
    """
    uniform = torch.linspace(-1, 1, 1_000_003, dtype=torch.float64)[1:-1]
    values = nn.functional.silu(math.sqrt(2) * torch.erfinv(uniform))
    return float((values**2).mean() ** -0.5)
