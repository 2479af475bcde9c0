"""Objects from their names and arguments in a configuration, ``{+PaiNN: {channels: 64}}``."""

from __future__ import annotations

import builtins
import importlib
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import data2objects

from graph_pes.spelling import nearest

from .config_files import ConfigError, check_keys

#: Where ``+Name`` is looked up, after Python's builtins.
MODULES = (
    "graph_pes",
    "graph_pes.models",
    "graph_pes.training",
    "graph_pes.training.opt",
    "graph_pes.training.loss",
    "graph_pes.data",
    "graph_pes.training.callbacks",
    "graph_pes.interfaces",
    "graph_pes.nn",
)

#: Dotted names of graph-pes 1 that configuration files may hold, and where they are now.
MOVED = {
    f"{old}.{name}": f"{new}.{name}"
    for old, new, names in (
        (
            "graph_pes.models.components.distances",
            "graph_pes.nn.radial",
            "DistanceExpansion Bessel GaussianSmearing SinExpansion ExponentialRBF",
        ),
        (
            "graph_pes.models.components.distances",
            "graph_pes.nn.envelopes",
            "Envelope PolynomialEnvelope CosineEnvelope SmoothOnsetEnvelope",
        ),
        (
            "graph_pes.models.components.aggregation",
            "graph_pes.nn.aggregation",
            "NeighbourAggregation SumNeighbours MeanNeighbours ScaledSumNeighbours "
            "VariancePreservingSumNeighbours",
        ),
        ("graph_pes.models.components.scaling", "graph_pes.nn.scaling", "LocalEnergiesScaler"),
        ("graph_pes.utils.nn", "graph_pes.nn.mlp", "MLP ShiftedSoftplus"),
        (
            "graph_pes.utils.nn",
            "graph_pes.nn.per_element",
            "PerElementParameter PerElementEmbedding AtomicOneHot",
        ),
        (
            "graph_pes.models.pairwise",
            "graph_pes.models",
            "PairPotential LennardJones LennardJonesMixture Morse SmoothedPairPotential "
            "ZBLCoreRepulsion",
        ),
        (
            "graph_pes.data.datasets",
            "graph_pes.data",
            "file_dataset load_atoms_dataset GraphDataset ConcatDataset DatasetCollection",
        ),
        ("graph_pes.data.ase_db", "graph_pes.data", "ASEDatabase"),
    )
    for name in names.split()
}

#: What a constructor raises if its arguments are wrong; anything else is a bug in it.
_BAD_ARGUMENTS = (TypeError, ValueError, OSError, ImportError)


def make_objects(config: Mapping[str, Any]) -> dict[str, Any]:
    """The objects that a configuration without references describes.

    All names and arguments are checked before the first object is made. Names without a dot
    are looked up in Python's builtins and in `MODULES`; those with dots are imported, with the
    working directory on the path.

    Raises
    ------
    ConfigError
        If a name is not found, an argument is unknown, or an object can't be made.

    Examples
    --------
    >>> make_objects({"cutoff": 4.5, "model": {"+PaiNN": {"cutoff": 4.5}}})["model"].cutoff.item()
    4.5
    >>> make_objects({"model": {"+PaiNN": {"layer": 2}}})
    Traceback (most recent call last):
    graph_pes.training.config_files.ConfigError: unknown key model/+PaiNN/layer: did you mean
    'layers'? ...
    """
    _check(config, "")
    return {str(key): make_object(value, str(key)) for key, value in config.items()}


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("+") and len(value) > 1


def _call(value: Any) -> tuple[str, Any] | None:
    """Name and arguments, if a value is ``{+Name: arguments}``."""
    if isinstance(value, Mapping) and len(value) == 1 and _is_name(next(iter(value))):
        return next(iter(value.items()))
    return None


def _check(value: Any, where: str) -> None:
    """Look up all names, and compare the names of arguments with those that are taken."""
    if isinstance(value, Mapping):
        call = _call(value)
        # {+freeze: {+load_model: ...}} calls with one value that is made first.
        if call is not None and isinstance(call[1], Mapping) and _call(call[1]) is None:
            _check_arguments(find(call[0], where), call[1], f"{where}{call[0]}/")
        for key, inner in value.items():
            _check(key, where)
            _check(inner, f"{where}{key}/")
    elif isinstance(value, list):
        for n, inner in enumerate(value):
            _check(inner, f"{where}{n}/")
    elif _is_name(value):
        find(value, where)


def _check_arguments(function: Any, arguments: Mapping[str, Any], where: str) -> None:
    if not callable(function):
        raise ConfigError(f"{where.rstrip('/')} is a {type(function).__name__}: it takes no values")
    parameters = _parameters(function)
    if parameters is not None:
        check_keys(arguments, parameters, where)


def _parameters(function: Callable[..., Any]) -> list[str] | None:
    """Names of arguments; None if any name will do, or it is not known."""
    try:
        # Of a class, whatever its metaclass makes of calls.
        target = function.__init__ if isinstance(function, type) else function  # type: ignore[misc]
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        return None
    parameters = list(signature.parameters.values())[isinstance(function, type) :]
    kinds = {parameter.kind for parameter in parameters}
    if inspect.Parameter.VAR_KEYWORD in kinds:
        return None
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [parameter.name for parameter in parameters if parameter.kind in named]


def find(name: str, where: str = "") -> Any:
    """The object of a name such as ``+PaiNN``, ``+PaiNN()`` or ``+torch.nn.SiLU``.

    Raises
    ------
    ConfigError
        If there is none, or the module it is in can't be imported.
    """
    plain = name[1:].removesuffix("()")
    modules = [importlib.import_module(module) for module in MODULES]
    if "." not in plain and not any(hasattr(m, plain) for m in (builtins, *modules)):
        raise ConfigError(
            f"{where.rstrip('/')}: there is no object +{plain}{nearest(plain, _known(modules))}"
        )
    plain = MOVED.get(plain, plain)
    try:
        return data2objects.process_data(f"+{plain}", modules)
    except ImportError as error:
        raise ConfigError(f"{where.rstrip('/')}: can't import +{plain}: {error}") from error
    except AttributeError as error:
        module, _, last = plain.rpartition(".")
        hint = nearest(last, vars(importlib.import_module(module)))
        raise ConfigError(f"{where.rstrip('/')}: there is no {last} in {module}{hint}") from error


def _known(modules: Sequence[types.ModuleType]) -> list[str]:
    return [name for module in modules for name in getattr(module, "__all__", vars(module))]


def make_object(value: Any, where: str) -> Any:
    """The object that a value describes, whose names have been checked.

    Parameters
    ----------
    where
        The key of the value, for errors.

    Raises
    ------
    ConfigError
        If it can't be made.
    """
    call = _call(value)
    if call is not None:
        arguments = make_object(call[1], f"{where}/{call[0]}")
        function = find(call[0], where)
        if isinstance(arguments, Mapping):
            return _called(lambda: function(**arguments), call[0], where)
        return _called(lambda: function(arguments), call[0], where)
    if isinstance(value, Mapping):
        return {make_object(k, where): make_object(v, f"{where}/{k}") for k, v in value.items()}
    if isinstance(value, list):
        return [make_object(inner, f"{where}/{n}") for n, inner in enumerate(value)]
    if not _is_name(value):
        return value
    found = find(value, where)
    return _called(found, value, where) if value.endswith("()") else found


def _called(function: Callable[[], Any], name: str, where: str) -> Any:
    try:
        return function()
    except _BAD_ARGUMENTS as error:
        raise ConfigError(f"{where}: can't make {name.removesuffix('()')}: {error}") from error
