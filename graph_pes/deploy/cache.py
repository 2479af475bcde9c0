"""Compiled code that is kept, so that each model is compiled once on each machine."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import platform
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock

from graph_pes.files import cache_folder
from graph_pes.models.base import GraphPESModel, GraphPropertyModel
from graph_pes.models.description import describe

from .export import export_model
from .exported import ExportedModel
from .failures import reason_of
from .trace import dtype_of
from .training_code import TrainingCode, compile_programs, load_programs
from .training_function import TrainingFunction

logger = logging.getLogger("graph_pes")

#: Name of the folder in which torch's compiler keeps its own files.
COMPILER = "inductor"


def compiled(model: GraphPESModel) -> GraphPESModel | ExportedModel:
    """A compiled copy of a model, from the cache if this machine has compiled it before.

    Where there is no working compiler, or the model can't be traced, a warning says so, and the
    model itself is returned.

    Parameters
    ----------
    model
        A model as it is now: later changes of its weights do not show in the copy.
    """
    try:
        return ExportedModel(compiled_file(model))
    except Exception as error:  # compilers fail in any way they like
        name = type(model).__name__
        logger.warning("%s runs without compilation, which failed: %s", name, reason_of(error))
        return model


def compiled_file(model: GraphPropertyModel) -> Path:
    """The compiled model as a file in the cache; made, while others wait, if it is not there."""
    path = cache_folder() / "compiled" / f"{fingerprint(model)}.pt2"
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.is_file():  # nobody else made it meanwhile
            start = time.perf_counter()
            logger.info("Compiling %s, once on this machine: minutes", type(model).__name__)
            export_model(model, path)
            logger.info("Compiled in %.0f s: %s", time.perf_counter() - start, path)
    return path


def cached_training_code(function: TrainingFunction, variant: str) -> TrainingCode:
    """Compiled code of a training function, from the cache if this machine has compiled it before.

    Of several processes that want the same code one compiles, and the others wait.

    Parameters
    ----------
    function
        What is compiled; weights do not matter.
    variant
        What the code depends on, besides the model.
    """
    name, start = type(function.model).__name__, time.perf_counter()
    folder = cache_folder() / "training" / training_fingerprint(function.model, variant)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"), kept_by_the_compiler(folder):
        code = load_programs(folder)
        if code is None:
            logger.info("Compiling the training of %s, once on this machine: minutes", name)
            shutil.rmtree(folder / COMPILER, ignore_errors=True)  # of a process that was killed
            code = compile_programs(function, folder)
            done = "Compiled"
        else:
            done = f"Training of {name}: took compiled code from the cache"
    logger.info("%s in %.0f s: %s", done, time.perf_counter() - start, folder)
    return code


@contextmanager
def kept_by_the_compiler(folder: Path) -> Iterator[None]:
    """Keep in a folder, too, what torch's compiler keeps of its own."""
    from torch._inductor.runtime.cache_dir_utils import temporary_cache_dir

    with temporary_cache_dir(str(folder / COMPILER)):
        yield


def fingerprint(model: GraphPropertyModel) -> str:
    """A name for what compiled code depends on: weights, source code, torch and the machine."""
    return _digest([*_surroundings(model), *_weights(model)])


def training_fingerprint(model: GraphPropertyModel, variant: str) -> str:
    """A name for what compiled training depends on: as `fingerprint`, but no weights."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    kinds = [f"{name} {x.dtype} {tuple(x.shape)}" for name, x in tensors]
    return _digest([*_surroundings(model), "\n".join([variant, *kinds]).encode()])


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:32]


def _weights(model: GraphPropertyModel) -> Iterator[bytes]:
    for name, tensor in sorted({**model.state_dict(), **dict(model.named_buffers())}.items()):
        if isinstance(tensor, torch.Tensor):
            yield f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()
            yield tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()


def _surroundings(model: GraphPropertyModel) -> Iterator[bytes]:
    yield f"{dtype_of(model)} {model.device} {torch.__version__} {_processor()}".encode()
    yield json.dumps(describe(model), sort_keys=True).encode()
    own = Path(__file__).parents[1]
    sources = {inspect.getsourcefile(type(module)) or "" for module in model.modules()}
    for path in sorted({*own.rglob("*.py"), *map(Path, sources - {""})}):
        if "torch" not in path.parts:
            yield path.read_bytes()


def _processor() -> str:
    """What machine code is compiled for."""
    kind = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    information = Path("/proc/cpuinfo")
    if information.is_file():
        lines = information.read_text().splitlines()
        kind += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return kind
