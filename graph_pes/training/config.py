"""The configuration of a training run, from plain values to objects."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal, TypeVar

import dacite
import dacite.exceptions
import dacite.types
import pytorch_lightning as pl
from torch.utils.data import DataLoader

from graph_pes.data import ConcatDataset, DatasetCollection, GraphDataset, file_dataset
from graph_pes.models import AdditionModel, TensorAdditionModel
from graph_pes.models.base import GraphPESModel, GraphPropertyModel, GraphTensorModel
from graph_pes.spelling import nearest

from .averaging import WeightAveraging
from .config_files import ConfigError, check_keys, fill_references, merge, read_yaml
from .loss import Loss, TotalLoss
from .objects import make_object, make_objects
from .opt import LRScheduler, Optimizer


@dataclass(frozen=True)
class TorchConfig:
    """Precision of models and data, and of float32 matrix products on GPUs."""

    dtype: Literal["float16", "float32", "float64"] = "float32"
    float32_matmul_precision: Literal["highest", "high", "medium"] = "high"


@dataclass(frozen=True)
class GeneralConfig:
    """What concerns a run as a whole."""

    seed: int = 42
    root_dir: str = "graph-pes-results"
    run_id: str | None = None
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    progress: Literal["rich", "logged"] = "rich"
    torch: TorchConfig = TorchConfig()


@dataclass(frozen=True)
class EarlyStoppingConfig:
    """When to stop for lack of improvement."""

    patience: int
    min_delta: float = 0.0
    monitor: str = "valid/loss/total"


@dataclass(frozen=True)
class SWAConfig:
    """Stochastic weight averaging, see `VerboseSWACallback`."""

    lr: float
    start: int | float = 0.8
    anneal_epochs: int = 10
    strategy: Literal["linear", "cos"] = "linear"


@dataclass(frozen=True)
class EMAConfig:
    """Exponential moving average of the weights, see `EMA`."""

    decay: float = 0.99


@dataclass(frozen=True)
class FittingConfig:
    """How a model is fitted."""

    trainer_kwargs: dict[str, Any] = field(default_factory=dict)
    loader_kwargs: dict[str, Any] = field(default_factory=dict)
    pre_fit_model: bool = True
    max_n_pre_fit: int | None = 5000
    auto_fit_reference_energies: bool = False
    keep: Literal["best", "last"] = "best"
    compile: bool = False
    cuequivariance: bool = False
    optimizer: Optimizer | dict[str, Any] | None = None
    scheduler: LRScheduler | dict[str, Any] | None = None
    lr_warmup_steps: int | None = None
    early_stopping: EarlyStoppingConfig | None = None
    early_stopping_patience: int | None = None
    swa: SWAConfig | None = None
    ema: EMAConfig | None = None
    callbacks: list[pl.Callback] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Refuse two averages, of which only one could be validated, and kernels of two kinds.

        Raises
        ------
        ConfigError
            If there are.
        """
        if self.compile and self.cuequivariance:
            raise ConfigError(
                "fitting: compiled training has kernels of its own, give compile or "
                "cuequivariance, not both"
            )
        averages = [c for c in self.callbacks if isinstance(c, WeightAveraging)]
        if (self.swa is not None) + (self.ema is not None) + len(averages) > 1:
            raise ConfigError("fitting: give one average of the weights, swa or ema, not both")

    def make_optimizer(self) -> Optimizer:
        """The optimizer: Adam with a rate of 1e-3 if nothing else is said.

        Raises
        ------
        ConfigError
            If there is none of that name, or it does not take these arguments.
        """
        if isinstance(self.optimizer, Optimizer):
            return self.optimizer
        arguments = {"name": "Adam", "lr": 1e-3, **(self.optimizer or {})}
        return make_object({"+Optimizer": arguments}, "fitting/optimizer")

    def make_scheduler(self) -> LRScheduler | None:
        """The learning-rate schedule, if any.

        Raises
        ------
        ConfigError
            If there is none of that name, or it does not take these arguments.
        """
        if self.scheduler is None or isinstance(self.scheduler, LRScheduler):
            return self.scheduler
        return make_object({"+LRScheduler": self.scheduler}, "fitting/scheduler")


@dataclass(frozen=True)
class TrainingConfig:
    """Everything ``graph-pes-train`` reads; ``model``, ``data`` and ``loss`` must be given."""

    model: GraphPropertyModel | dict[str, Any]
    data: DatasetCollection | dict[str, Any]
    loss: Loss | TotalLoss | dict[str, Any] | list[Any]
    fitting: FittingConfig
    general: GeneralConfig
    wandb: dict[str, Any] | None = None


@dataclass(frozen=True)
class TestingConfig:
    """Everything ``graph-pes-test`` reads; ``model_path`` must be given."""

    __test__ = False  # not a test, whatever its name says

    model_path: str
    data: GraphDataset | dict[str, Any] | str | None = None
    loader_kwargs: dict[str, Any] = field(
        default_factory=lambda: {"batch_size": 2, "num_workers": 0}
    )
    torch: TorchConfig = TorchConfig()
    logger: Literal["auto", "csv"] | dict[str, Any] = "auto"
    accelerator: str = "auto"
    prefix: str = "test"


def default_config() -> dict[str, Any]:
    """The default configuration of a training run, as plain values."""
    text = resources.files(__package__).joinpath("defaults.yaml").read_text(encoding="utf-8")
    return read_yaml(text, "defaults.yaml")


def resolve(config: Mapping[str, Any], schema: type, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults, references and spelling: the complete configuration as plain values.

    Raises
    ------
    ConfigError
        If a key is unknown, or refers to one that is not there.
    """
    filled, referenced = fill_references(merge(defaults, config))
    _check_top_level(filled, schema, referenced)
    _check_fields(filled, schema, "")
    _check_required(filled, schema)
    fitting = filled.get("fitting")
    if schema is TrainingConfig and isinstance(fitting, dict):
        _check_arguments(pl.Trainer, fitting["trainer_kwargs"], "fitting/trainer_kwargs")
        _check_arguments(DataLoader, fitting["loader_kwargs"], "fitting/loader_kwargs")
    if schema is TestingConfig:
        _check_arguments(DataLoader, filled["loader_kwargs"], "loader_kwargs")
    return filled


def _check_arguments(cls: type, arguments: Any, where: str) -> None:
    if not isinstance(arguments, Mapping):
        raise ConfigError(f"{where}: expected keys and values, got {arguments!r}")
    names = list(inspect.signature(cls.__init__).parameters)[1:]  # type: ignore[misc]
    check_keys(arguments, names, f"{where}/")


def _check_top_level(config: Mapping[str, Any], schema: type, referenced: set[str]) -> None:
    """Unknown keys are a user's variables, unless they look like a misspelt known one."""
    known = [f.name for f in dataclasses.fields(schema)]
    for key in config:
        hint = nearest(str(key), known)
        if key not in known and hint != "." and key not in referenced:
            raise ConfigError(
                f"unknown key {key}{hint} Known keys: {sorted(known)}. (A variable of your own "
                "may have any name that a reference =/name uses.)"
            )


def _check_required(config: Mapping[str, Any], schema: type) -> None:
    for f in dataclasses.fields(schema):
        required = f.default is f.default_factory is dataclasses.MISSING
        if required and config.get(f.name) is None:
            raise ConfigError(f"the key {f.name!r} is missing from the configuration")


def _check_fields(config: Mapping[str, Any], schema: type, where: str) -> None:
    """Unknown keys in those parts of the configuration that have a schema of their own."""
    hints = typing.get_type_hints(schema)
    for name, hint in hints.items():
        members = _members(hint)
        inner = next((t for t in members if dataclasses.is_dataclass(t)), None)
        # Data sets and the like, which are dataclasses too, may be given in other ways.
        generic = [typing.get_origin(member) for member in members]
        if not isinstance(inner, type) or name not in config or dict in generic:
            continue
        value = config[name]
        if value is None and type(None) in members:
            continue
        if not isinstance(value, dict):
            got = "nothing" if value is None else repr(value)
            raise ConfigError(f"{where}{name}: expected keys and values, got {got}")
        known = [f.name for f in dataclasses.fields(inner)]  # type: ignore[arg-type]
        check_keys(value, known, f"{where}{name}/")
        _check_fields(value, inner, f"{where}{name}/")


def _members(hint: Any) -> tuple[Any, ...]:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


Schema = TypeVar("Schema")


def instantiate(config: Mapping[str, Any], schema: type[Schema]) -> Schema:
    """The objects of a resolved configuration.

    Raises
    ------
    ConfigError
        If a ``+Name`` is not found or can't be made, or a value has the wrong type.
    """
    known = {f.name for f in dataclasses.fields(schema)}  # type: ignore[arg-type]
    objects = make_objects({key: value for key, value in config.items() if key in known})
    made = typed(objects, schema)
    if isinstance(made, TrainingConfig):
        trainer_types = typing.get_type_hints(pl.Trainer.__init__)
        _check_types(made.fitting.trainer_kwargs, trainer_types, "fitting/trainer_kwargs/")
        _check_types(made.fitting.loader_kwargs, _LOADER_TYPES, "fitting/loader_kwargs/")
    if isinstance(made, TestingConfig):
        _check_types(made.loader_kwargs, _LOADER_TYPES, "loader_kwargs/")
    return made


_LOADER_TYPES = {
    "batch_size": int,
    "num_workers": int,
    "persistent_workers": bool,
    "pin_memory": bool,
    "drop_last": bool,
}


def _check_types(values: Mapping[str, Any], hints: Mapping[str, Any], where: str) -> None:
    for key, value in values.items():
        if key in hints and not dacite.types.is_instance(value, hints[key]):
            raise ConfigError(
                f"{where}{key}: expected {_described(hints[key])}, got {value!r} "
                f"({type(value).__name__})"
            )


def typed(values: Mapping[str, Any], schema: type[Schema], where: str = "") -> Schema:
    """Values as an instance of a dataclass, whole numbers standing for floats too.

    Raises
    ------
    ConfigError
        If a value has the wrong type, naming its key.
    """
    hooks = {float: lambda x: float(x) if isinstance(x, int) and not isinstance(x, bool) else x}
    try:
        return dacite.from_dict(schema, values, dacite.Config(strict=True, type_hooks=hooks))
    except dacite.MissingValueError as error:
        raise ConfigError(f"the key {_key(where, error)} is missing") from error
    except dacite.WrongTypeError as error:
        got = f"{error.value!r} ({type(error.value).__name__})"
        if isinstance(error.value, type):
            name = error.value.__name__
            got = f"the class {name}: write +{name}() to make one"
        raise ConfigError(
            f"{_key(where, error)}: expected {_described(error.field_type)}, got {got}"
        ) from error


def _key(where: str, error: dacite.exceptions.DaciteFieldError) -> str:
    return where + str(error.field_path).replace(".", "/")


def _described(hint: Any) -> str:
    """What a value should be, for people."""
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    names: dict[Any, str] = {
        type(None): "null",
        dict: "keys and values",
        list: "a list",
        str: "text",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
    }
    members = _members(hint)
    if len(members) > 1:
        return " or ".join(map(_described, members))
    kind = typing.get_origin(hint) or hint
    return names.get(kind) or str(getattr(kind, "__name__", kind))


# --- values that may be given in several ways ---------------------------------------------


def parse_model(model: GraphPropertyModel | Mapping[str, Any]) -> GraphPropertyModel:
    """A model, or the sum of named ones.

    Raises
    ------
    ConfigError
        If it is something else.
    """
    if isinstance(model, GraphPropertyModel):
        return model
    parts = dict(model)
    if parts and all(isinstance(part, GraphPESModel) for part in parts.values()):
        return AdditionModel(**parts)
    if parts and all(isinstance(part, GraphTensorModel) for part in parts.values()):
        return TensorAdditionModel(**parts)
    kinds = {name: type(part).__name__ for name, part in parts.items()}
    raise ConfigError(f"model: expected a model or named models of one kind, got {kinds}")


def parse_loss(loss: Any) -> TotalLoss:
    """The total of one loss, or of several in a list or under names.

    Raises
    ------
    ConfigError
        If it is something else.
    """
    if isinstance(loss, TotalLoss):
        return loss
    terms = [loss] if isinstance(loss, Loss) else loss
    terms = list(terms.values()) if isinstance(terms, Mapping) else list(terms)
    wrong = [term for term in terms if not isinstance(term, Loss)]
    if wrong:
        raise ConfigError(
            f"loss: expected losses such as +PerAtomEnergyLoss(), got {wrong[0]!r} "
            f"({type(wrong[0]).__name__})"
        )
    try:
        return TotalLoss(terms)
    except ValueError as error:
        raise ConfigError(f"loss: {error}") from error


def parse_dataset(value: Any, cutoff: float, where: str) -> GraphDataset:
    """A data set, the path of a file, or arguments of `file_dataset`.

    Raises
    ------
    ConfigError
        If it is something else, or an argument is unknown.
    """
    if isinstance(value, GraphDataset):
        return value
    arguments = {"path": value} if isinstance(value, str) else value
    if not isinstance(arguments, Mapping):
        raise ConfigError(f"{where}: expected a path, file_dataset arguments or a data set")
    check_keys(arguments, inspect.signature(file_dataset).parameters, f"{where}/")
    if "path" not in arguments:
        raise ConfigError(f"{where}: the key 'path' is missing")
    try:
        return file_dataset(**{"cutoff": cutoff, **arguments})
    except (ValueError, TypeError, OSError) as error:
        raise ConfigError(f"{where}: {error}") from error


def parse_data(data: DatasetCollection | Mapping[str, Any], cutoff: float) -> DatasetCollection:
    """Training, validation and, if given, test sets; several by name are taken together.

    Raises
    ------
    ConfigError
        If ``train`` or ``valid`` is missing, or a set can't be understood.
    """
    if isinstance(data, DatasetCollection):
        return data
    check_keys(data, ("train", "valid", "test"), "data/")
    for key in ("train", "valid"):
        if key not in data:
            raise ConfigError(f"data: the key {key!r} is missing")
    test = data.get("test")
    return DatasetCollection(
        train=parse_datasets(data["train"], cutoff, "data/train"),
        valid=parse_datasets(data["valid"], cutoff, "data/valid"),
        test=None if test is None else parse_test_sets(test, cutoff, "data/test"),
    )


def parse_datasets(value: Any, cutoff: float, where: str) -> GraphDataset:
    """One data set, or several under names as one."""
    sets = parse_test_sets(value, cutoff, where)
    return ConcatDataset(**sets) if isinstance(sets, dict) else sets


def parse_test_sets(
    value: Any, cutoff: float, where: str
) -> GraphDataset | dict[str, GraphDataset]:
    """One data set, or several under names."""
    if isinstance(value, Mapping) and not (
        set(value) & set(inspect.signature(file_dataset).parameters)
    ):
        return {name: parse_dataset(v, cutoff, f"{where}/{name}") for name, v in value.items()}
    return parse_dataset(value, cutoff, where)
