"""Configuration from files and the command line: reading, merging and naming mistakes."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from graph_pes.files import atomic_write
from graph_pes.spelling import nearest


class ConfigError(ValueError):
    """A configuration that can't be used; the message says which key, and what to do."""


class _Loader(yaml.SafeLoader):
    """YAML in which ``1e-3`` is a number, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(
                    f"{node.start_mark.name}, line {line}: a key should be a single word or "
                    "number, not a list or another mapping"
                )
            if key_node.tag == "tag:yaml.org,2002:bool":
                # NO is nitric oxide and No is nobelium: a key is never a truth value.
                key_node.tag = "tag:yaml.org,2002:str"
            key = self.construct_object(key_node, deep=True)
            if key in seen:
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
    is_yaml = argument.endswith((".yaml", ".yml"))
    if is_yaml and ("=" not in argument or Path(argument).is_file()):
        try:
            text = Path(argument).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"can't read the configuration file {argument}: {error}") from error
        value = read_yaml(text, argument)
        if not isinstance(value, dict):
            kind = "an empty file" if value is None else type(value).__name__
            raise ConfigError(f"{argument}: expected keys and values, got {kind}")
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

    A ``+Name`` object replaces another one rather than being merged with it; plain keys and
    values are arguments of the object that is there. Items of a list are reached by their
    number, counted from 0.

    Raises
    ------
    ConfigError
        If a list has no such item.

    Examples
    --------
    >>> merge({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}})
    {'a': {'x': 1, 'y': 3}}
    >>> merge({"model": {"+PaiNN": {"layers": 2}}}, {"model": {"+SchNet": {}}})
    {'model': {'+SchNet': {}}}
    >>> merge({"optimizer": {"+Optimizer": {"name": "AdamW"}}}, {"optimizer": {"lr": 0.01}})
    {'optimizer': {'+Optimizer': {'name': 'AdamW', 'lr': 0.01}}}
    >>> merge({"loss": ["+A()", "+B()"]}, {"loss": {"1": "+C()"}})
    {'loss': ['+A()', '+C()']}
    """
    merged = dict(base)
    for key, value in update.items():
        old = merged.get(key)
        merged[key] = _merge_values(old, value, str(key))
    return merged


def _merge_values(old: Any, new: Any, where: str) -> Any:
    if isinstance(old, Mapping) and isinstance(new, Mapping) and not _replaces(old, new):
        return merge(old, new)
    if isinstance(old, Mapping) and len(old) == 1 and isinstance(new, Mapping) and new:
        (name, arguments), *_ = old.items()
        if str(name).startswith("+") and isinstance(arguments, Mapping) and not _has_object(new):
            return {name: merge(arguments, new)}
    by_number = isinstance(new, Mapping) and new and all(str(key).isdigit() for key in new)
    if isinstance(old, list) and by_number:
        items = list(old)
        for key, value in new.items():
            if int(key) >= len(items):
                raise ConfigError(
                    f"{where}/{key}: there is no such item, as {where} is a list of {len(items)} "
                    "(items are counted from 0)"
                )
            items[int(key)] = _merge_values(items[int(key)], value, f"{where}/{key}")
        return items
    return new


def _replaces(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    names = [{str(k) for k in config if str(k).startswith("+")} for config in (old, new)]
    return bool(names[0] or names[1]) and names[0] != names[1]


def _has_object(value: Any) -> bool:
    """Whether a ``+Name``, or a reference, is in a value: named models, say, not arguments."""
    if isinstance(value, Mapping):
        return any(_has_object(key) or _has_object(v) for key, v in value.items())
    return isinstance(value, str) and value.startswith(("+", "="))


def fill_references(config: Mapping[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """Put values in place of references to them.

    ``=/a/b`` is the value of ``b`` in ``a``, from the top; ``=b`` that of a key beside the
    reference, and ``=../b`` of one a level above. Items of lists are numbered from 0.

    Returns
    -------
    dict[str, Any]
        The configuration without references.
    set[str]
        Keys at the top level that are referred to.

    Raises
    ------
    ConfigError
        If a reference leads nowhere, or back to itself.

    Examples
    --------
    >>> fill_references({"c": 4.5, "list": [{"x": "=/c"}, "=../c"]})
    ({'c': 4.5, 'list': [{'x': 4.5}, 4.5]}, {'c'})
    """
    used: set[str] = set()

    def filled(value: Any, path: tuple[str, ...], chain: tuple[str, ...]) -> Any:
        if isinstance(value, Mapping):
            return {k: filled(v, (*path, str(k)), chain) for k, v in value.items()}
        if isinstance(value, list):
            return [filled(v, (*path, str(n)), chain) for n, v in enumerate(value)]
        if not isinstance(value, str) or not value.startswith("=") or value == "=":
            return value
        target = _target(value, path)
        name = "/".join(target)
        if name in chain or path[: len(target)] == target:
            raise ConfigError(f"{'/'.join(path)}: the reference {value} leads back to itself")
        used.add(target[0])
        found = _look_up(config, target, f"{'/'.join(path)}: the reference {value}")
        return filled(found, target, (*chain, name))

    return {key: filled(value, (str(key),), ()) for key, value in config.items()}, used


def _target(reference: str, path: tuple[str, ...]) -> tuple[str, ...]:
    """The keys from the top to what a reference at some path refers to."""
    text = reference[1:]
    target = [] if text.startswith("/") else list(path[:-1])
    for part in text.split("/"):
        if part == ".." and not target:
            raise ConfigError(f"{'/'.join(path)}: the reference {reference} has too many ..")
        if part == "..":
            target.pop()
        elif part not in ("", "."):
            target.append(part)
    if not target:
        raise ConfigError(f"{'/'.join(path)}: the reference {reference} names no key")
    return tuple(target)


def _look_up(config: Any, target: tuple[str, ...], what: str) -> Any:
    for depth, part in enumerate(target):
        if isinstance(config, list):
            config = {str(n): item for n, item in enumerate(config)}
        known = {str(k): v for k, v in config.items()} if isinstance(config, Mapping) else {}
        if part not in known:
            above = "/".join(target[:depth])
            raise ConfigError(
                f"{what} leads nowhere: there is no {part!r} "
                f"{f'in {above}' if above else 'at the top level'}{nearest(part, known)}"
            )
        config = known[part]
    return config


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


def write_yaml(value: Any, path: str | os.PathLike[str]) -> None:
    """Write a configuration, completely or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))
