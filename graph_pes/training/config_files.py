"""Configuration from files and the command line: reading, merging and naming mistakes."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from graph_pes.files import atomic_write


class ConfigError(ValueError):
    """A configuration that can't be used; the message says which key, and what to do."""


class _Loader(yaml.SafeLoader):
    """YAML in which ``1e-3`` is a number, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if key != "<<" and key in seen:
                raise ConfigError(
                    f"{node.start_mark.name}: the key {key!r} is given twice, in lines {seen[key]} "
                    f"and {line}"
                )
            seen[key] = line
        return super().construct_mapping(node, deep)


# YAML 1.1 wants a dot and a sign in floats, YAML 1.2 and everyone else do not.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def read_yaml(text: str, name: str) -> Any:
    """The value of a YAML text.

    Parameters
    ----------
    name
        What to call it in errors.

    Raises
    ------
    ConfigError
        If it is not YAML, or gives a key twice.

    Examples
    --------
    >>> read_yaml("{lr: 1e-3, n: 5}", "example")
    {'lr': 0.001, 'n': 5}
    """
    loader = _Loader(text)
    loader.name = name
    try:
        return loader.get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} is not valid YAML: {error}") from error
    finally:
        loader.dispose()


def read_config(arguments: Sequence[str]) -> dict[str, Any]:
    """Configuration from files and ``a/b/c=value`` overrides, later ones winning.

    Raises
    ------
    ConfigError
        If there is nothing to read, a file is missing or no mapping, or an argument is
        neither.
    """
    if not arguments:
        raise ConfigError(
            "expected at least one configuration file (FILE.yaml) or override (key=value)"
        )
    return reduce(merge, map(_read_argument, arguments))


def _read_argument(argument: str) -> dict[str, Any]:
    if argument.endswith((".yaml", ".yml")) and "=" not in argument:
        try:
            text = Path(argument).read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"can't read the configuration file {argument}: {error}") from error
        value = read_yaml(text, argument)
        if not isinstance(value, dict):
            raise ConfigError(f"{argument}: expected keys and values, got {type(value).__name__}")
        return value
    key, equals, text = argument.partition("=")
    if not equals or not key:
        raise ConfigError(
            f"can't understand the argument {argument!r}: expected a file (FILE.yaml) or an "
            "override (a/b/c=value)"
        )
    value = read_yaml(text, argument)
    return reduce(lambda inner, k: {k: inner}, reversed(key.split("/")), value)


def merge(base: Mapping[str, Any], update: Mapping[str, Any]) -> dict[str, Any]:
    """Deep merge of two configurations, in which the second wins.

    A ``+Name`` object replaces another one rather than being merged with it.

    Examples
    --------
    >>> merge({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}})
    {'a': {'x': 1, 'y': 3}}
    >>> merge({"model": {"+PaiNN": {"layers": 2}}}, {"model": {"+SchNet": {}}})
    {'model': {'+SchNet': {}}}
    """
    merged = dict(base)
    for key, value in update.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping) and not _replaces(old, value):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def _replaces(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    names = [{str(k) for k in config if str(k).startswith("+")} for config in (old, new)]
    return bool(names[0] or names[1]) and names[0] != names[1]


def check_keys(config: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Refuse keys that are not known.

    Raises
    ------
    ConfigError
        Naming the key, where it is, and the nearest known one.
    """
    known = list(known)
    for key in config:
        if key not in known:
            raise ConfigError(
                f"unknown key {where}{key}{nearest(str(key), known)} Known keys: {sorted(known)}"
            )


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint with the known word that is most like a given one."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f": did you mean {close[0]!r}?" if close else "."


def write_yaml(value: Any, path: str | os.PathLike[str]) -> None:
    """Write a configuration, completely or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))
