"""What there is to measure: ``models.yaml``, and who takes part in a measurement."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

OURS = "ours"


@dataclass(frozen=True)
class Contender:
    """A package, as it is or compiled.

    Attributes
    ----------
    package
        Its name in ``models.yaml``; `OURS` for the present one.
    compiled
        Whether it compiles models.
    """

    package: str
    compiled: bool = False

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.package}, compiled" if self.compiled else self.package


@cache
def catalogue() -> dict[str, Any]:
    """The content of ``models.yaml``."""
    return yaml.safe_load(Path(__file__).with_name("models.yaml").read_text())


def models() -> list[str]:
    """Names of all models."""
    return list(catalogue()["models"])


def peers() -> list[str]:
    """Names of all packages but ours."""
    return [name for name in catalogue()["packages"] if name != OURS]


def title_of(model: str) -> str:
    """A model's name and width."""
    return catalogue()["models"][model]["title"]


def package_facts(package: str) -> dict[str, Any]:
    """What ``models.yaml`` says of a package."""
    return catalogue()["packages"][package]


def request_of(model: str, contender: Contender) -> dict[str, Any]:
    """The part of a request to a worker that the catalogue knows."""
    facts = package_facts(contender.package)
    return {
        "package": facts.get("adapter", contender.package),
        "entry": catalogue()["models"][model][contender.package],
        "compiled": contender.compiled,
    }


def contenders(model: str, task: str, packages: list[str]) -> list[Contender]:
    """Ours, and those of some packages that have the model; compiled too, where it can be."""
    found = []
    for package in [OURS, *packages]:
        if package in catalogue()["models"][model]:
            found.append(Contender(package))
            if task in package_facts(package).get("compiled", []):
                found.append(Contender(package, compiled=True))
    return found
