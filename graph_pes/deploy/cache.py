"""Compiled models that are kept, so that each is compiled once on each machine."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from filelock import FileLock

from graph_pes.files import cache_folder
from graph_pes.models.base import GraphPESModel, GraphPropertyModel
from graph_pes.models.description import describe

from .export import export_model
from .exported import ExportedModel
from .trace import dtype_of

logger = logging.getLogger("graph_pes")


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
        reason = str(error).strip().split("\n")[0][:200]
        logger.warning(
            "%s runs without compilation, which failed (%s: %s)",
            type(model).__name__,
            type(error).__name__,
            reason,
        )
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


def fingerprint(model: GraphPropertyModel) -> str:
    """A name for what compiled code depends on: weights, source code, torch and the machine."""
    digest = hashlib.sha256()
    for part in _parts(model):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:32]


def _parts(model: GraphPropertyModel) -> Iterator[bytes]:
    yield f"{dtype_of(model)} {model.device} {torch.__version__} {_processor()}".encode()
    yield json.dumps(describe(model), sort_keys=True).encode()
    for name, tensor in sorted({**model.state_dict(), **dict(model.named_buffers())}.items()):
        if isinstance(tensor, torch.Tensor):
            yield f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()
            yield tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
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
