"""Which irreps a tensor product couples with which."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .irreps import clebsch_gordan, o3

if TYPE_CHECKING:
    from e3nn.o3 import Irreps


@dataclass(frozen=True)
class Path:
    """One coupling of an irrep of the features and one of the harmonics to one of the result.

    Attributes
    ----------
    source, harmonic, target
        Positions of the irreps among those of the features, harmonics and result.
    channels
        Number of channels, that of the features.
    first_weight, first_channel
        Where the path begins among all weights, and among the channels of its target.
    coupling
        Which coupling matrix it uses.
    """

    source: int
    harmonic: int
    target: int
    channels: int
    first_weight: int
    first_channel: int
    coupling: int

    @property
    def weights(self) -> slice:
        """Columns of its weights."""
        return slice(self.first_weight, self.first_weight + self.channels)

    @property
    def into(self) -> slice:
        """Channels of the target that it writes."""
        return slice(self.first_channel, self.first_channel + self.channels)


@dataclass(frozen=True)
class Coupling:
    """Degrees that are coupled, and where the harmonics of degree l2 are."""

    l1: int
    l2: int
    l3: int
    harmonic: int

    def coefficients(self) -> Tensor:
        """In double precision, normalised: shape (2 l2 + 1, 2 l1 + 1, 2 l3 + 1)."""
        C = clebsch_gordan(self.l1, self.l2, self.l3).permute(1, 0, 2)
        return C * math.sqrt(2 * self.l3 + 1)


@dataclass(frozen=True)
class Paths:
    """All paths of a tensor product, ordered by their targets.

    Attributes
    ----------
    harmonics
        Number of components of each irrep of the harmonics.
    targets
        Components and channels of each block of the result.
    width
        Number of weights of an edge.
    """

    paths: tuple[Path, ...]
    couplings: tuple[Coupling, ...]
    harmonics: tuple[int, ...]
    targets: tuple[tuple[int, int], ...]
    width: int

    @property
    def widths(self) -> list[int]:
        """Number of weights of each path."""
        return [path.channels for path in self.paths]

    def channels_to(self, target: int) -> list[int]:
        """Number of channels of each path to a target."""
        return [path.channels for path in self.paths if path.target == target]

    def matrices(self, Y: Tensor, coefficients: Sequence[Tensor], n: int) -> list[Tensor | None]:
        """K of each coupling, (n, D (2 l1 + 1), 2 l3 + 1), from harmonics (n D, ...).

        None for those with harmonics of degree 0, which couple components one by one.
        """
        parts = Y.split(self.harmonics, dim=1)

        def matrix(c: Coupling, C: Tensor) -> Tensor | None:
            if c.l2 == 0:
                return None
            product = parts[c.harmonic] @ C if c.l1 > 0 else parts[c.harmonic]
            return product.view(n, -1, 2 * c.l3 + 1)

        return [matrix(c, C) for c, C in zip(self.couplings, coefficients, strict=True)]


def find_paths(irreps_in: Irreps, harmonics: Irreps, irreps_out: Irreps) -> tuple[Paths, Irreps]:
    """All paths to any of ``irreps_out``, and the irreps of the result with their channels."""
    found: list[tuple[Any, int, int, int]] = []
    for source, (mul, ir_1) in enumerate(irreps_in):
        for harmonic, (_, ir_2) in enumerate(harmonics):
            wanted = [ir for _, ir in irreps_out if ir in list(ir_1 * ir_2)]
            found += [(ir, source, harmonic, mul) for ir in wanted]
    found.sort(key=lambda path: path[0])
    result: dict[Any, int] = {}
    couplings: dict[Coupling, int] = {}
    paths: list[Path] = []
    width = 0
    for ir, source, harmonic, mul in found:
        l1, l2 = irreps_in[source].ir.l, harmonics[harmonic].ir.l
        coupling = couplings.setdefault(Coupling(l1, l2, ir.l, harmonic), len(couplings))
        target = list(result).index(ir) if ir in result else len(result)
        first = result.get(ir, 0)
        paths.append(Path(source, harmonic, target, mul, width, first, coupling))
        result[ir] = first + mul
        width += mul
    targets = tuple((ir.dim, mul) for ir, mul in result.items())
    sizes = tuple(ir.dim for _, ir in harmonics)
    irreps = o3().Irreps([(mul, ir) for ir, mul in result.items()])
    return Paths(tuple(paths), tuple(couplings), sizes, targets, width), irreps
