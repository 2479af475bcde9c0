r"""Symmetry functions of ANI: what the neighbourhood of an atom looks like, as a vector.

Smith et al., doi:10.1039/C6SC05720A, equations 3 and 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from graph_pes.atomic_graph import (
    AtomicGraph,
    is_neighbour_matrix,
    neighbour_pairs,
    neighbour_vectors,
    number_of_atoms,
    sum_outer_products_over_neighbours,
)
from graph_pes.tensors import index_sum, is_traced, safe_norm, sum_of_products

from .envelopes import CosineEnvelope
from .float64 import Float64Tensors
from .trilinear import TrilinearForm, pieces

#: Cosines are multiplied by it, so that the sine of the angle is never zero.
COSINE_FACTOR = 0.95

#: Of what powers are taken of, the power of which does not count.
NEARLY_ZERO = 1e-12


class SymmetryFunctions(Float64Tensors):
    r"""Radial and angular symmetry functions, for each element, or pair of elements, of neighbours.

    .. math::

        G_{i, z s} &= \tfrac{1}{4} \sum_{j: z_j = z} e^{-\eta (r_{ij} - R_s)^2} f(r_{ij}; r_c) \\
        G_{i, z z' s t} &= 2 \sum_{\{j, k\}: \{z_j, z_k\} = \{z, z'\}}
        \left( \frac{1 + \cos(\theta_{jik} - \theta_t)}{2} \right)^\zeta
        e^{-\eta' \left( \frac{r_{ij} + r_{ik}}{2} - R'_s \right)^2}
        f(r_{ij}; r'_c) f(r_{ik}; r'_c)

    where :math:`f(r; r_c) = \frac{1}{2} (1 + \cos(\pi r / r_c))` below :math:`r_c`, else 0, and

    .. math::

        \cos \theta_{jik} = 0.95 \, \hat{r}_{ij} \cdot \hat{r}_{ik}

    There is no arc cosine in it:
    :math:`\cos(\theta - \theta_t) = \cos \theta \cos \theta_t + \sin \theta \sin \theta_t`.

    Parameters
    ----------
    cutoff, angular_cutoff
        :math:`r_c` and :math:`r'_c` in Å.
    radial_eta, angular_eta
        :math:`\eta` and :math:`\eta'` in Å⁻².
    radial_shifts, angular_shifts
        :math:`R_s` and :math:`R'_s` in Å.
    zeta
        :math:`\zeta`.
    sections
        :math:`\theta_t` in radians.

    Attributes
    ----------
    n_radial
        Number of functions of an element.
    n_angular
        Number of functions of a pair of elements; those of the first shift come first.
    """

    radial_shifts: Tensor
    angular_shifts: Tensor
    cosines: Tensor
    sines: Tensor

    def __init__(
        self,
        cutoff: float,
        angular_cutoff: float,
        radial_eta: float,
        radial_shifts: Sequence[float],
        angular_eta: float,
        angular_shifts: Sequence[float],
        zeta: float,
        sections: Sequence[float],
    ):
        super().__init__()
        self.angular_cutoff = float(angular_cutoff)
        self.radial_eta, self.angular_eta = float(radial_eta), float(angular_eta)
        self.zeta = float(zeta)
        self.envelope, self.angular_envelope = map(CosineEnvelope, (cutoff, angular_cutoff))
        constants = {
            "radial_shifts": radial_shifts,
            "angular_shifts": angular_shifts,
            "cosines": [math.cos(angle) for angle in sections],
            "sines": [math.sin(angle) for angle in sections],
        }
        for name, values in constants.items():
            tensor = torch.tensor(values, dtype=torch.float64)
            self.register_float64_buffer(name, tensor, persistent=False)
        self.n_radial, self.n_angular = len(radial_shifts), len(angular_shifts) * len(sections)

    def width(self, n: int) -> int:
        """Number of functions for n elements."""
        return n * self.n_radial + n * (n + 1) // 2 * self.n_angular

    def forward(self, graph: AtomicGraph, of_neighbours: Tensor, n: int) -> Tensor:
        """All functions of each atom.

        Parameters
        ----------
        graph
            With edges up to the cutoff.
        of_neighbours
            The element of the neighbour of each edge, from 0, shape (E,); those of -1 do not
            count.
        n
            Number of elements.

        Returns
        -------
        Tensor
            Shape (N, width): first those of each element, then those of each pair of elements,
            in the order of `torch.triu_indices`.
        """
        vectors = neighbour_vectors(graph)
        r = safe_norm(vectors)
        counts, elements = of_neighbours >= 0, of_neighbours.clamp(min=0)
        radial = radial_sums(self.radial_terms(r, counts), elements, n, graph)
        return torch.cat([radial, self.angular_sums(vectors, r, counts, elements, n, graph)], dim=1)

    def among(self, some: Tensor, n: int) -> Tensor:
        """Of some of n elements, in ascending order: where their functions are among all."""
        a, b = torch.triu_indices(len(some), len(some), device=some.device)
        pairs = pair_index(some.index_select(0, a), some.index_select(0, b), n)
        radial, angular = (
            torch.arange(size, device=some.device) for size in (self.n_radial, self.n_angular)
        )
        return torch.cat(
            [
                (some.unsqueeze(1) * self.n_radial + radial).view(-1),
                (n * self.n_radial + pairs.unsqueeze(1) * self.n_angular + angular).view(-1),
            ]
        )

    def radial_terms(self, r: Tensor, counts: Tensor) -> Tensor:
        """Terms of the radial sums, of distances (E,) that count or not: shape (E, shifts)."""
        deviations = r.unsqueeze(1) - self.radial_shifts.to(r.dtype)
        weights = 0.25 * self.envelope(r) * counts
        return weights.unsqueeze(1) * torch.exp(-self.radial_eta * deviations**2)

    def angular_sums(
        self,
        vectors: Tensor,
        r: Tensor,
        counts: Tensor,
        elements: Tensor,
        n: int,
        graph: AtomicGraph,
    ) -> Tensor:
        """Sums over pairs of neighbours, by pair of elements."""
        N, n_pairs = number_of_atoms(graph), n * (n + 1) // 2
        ij, ik = neighbour_pairs(graph, self.angular_cutoff)

        directions = vectors / torch.where(r == 0, 1.0, r).unsqueeze(1)
        of_edges = [*directions.unbind(1), r, self.angular_envelope(r) * counts]
        ends = [x.index_select(0, edges) for edges in (ij, ik) for x in of_edges]
        if is_traced(N):
            ends = stored(ends)
        *first, r_ij, f_ij = ends[:5]
        *second, r_ik, f_ik = ends[5:]
        cosines = COSINE_FACTOR * sum_of_products(first, second)
        geometry = (2 * f_ij * f_ik, (r_ij + r_ik) / 2, cosines)
        e_j, e_k = (elements.index_select(0, edges) for edges in (ij, ik))
        pair = pair_index(torch.minimum(e_j, e_k), torch.maximum(e_j, e_k), n)
        row = graph.neighbour_list[0].index_select(0, ij) * n_pairs + pair
        if is_traced(N):
            sums = self.written_out(*geometry, row, N * n_pairs)
        else:
            sums = OuterProducts(row, N * n_pairs)(0, *self.factors(*geometry))
        return sums.view(N, n_pairs * self.n_angular)

    def factors(self, weights: Tensor, lengths: Tensor, cosines: Tensor) -> tuple[Tensor, Tensor]:
        """Of triplets (T,), what depends on lengths (shifts, T), and on angles (sections, T)."""
        constants = (self.angular_shifts, self.cosines, self.sines)
        shifts, cos, sin = (x.to(lengths.dtype).unsqueeze(1) for x in constants)
        return weights * self.of_lengths(lengths, shifts), self.of_angles(cosines, cos, sin)

    def written_out(
        self, weights: Tensor, lengths: Tensor, cosines: Tensor, row: Tensor, n_rows: int
    ) -> Tensor:
        """The sums of the products of `factors`, one by one: compilers make one loop of them."""
        constants = (self.angular_shifts, self.cosines, self.sines)
        shifts, cos, sin = (x.to(lengths.dtype).unbind() for x in constants)
        x = [weights * self.of_lengths(lengths, shift) for shift in shifts]
        y = [self.of_angles(cosines, c, s) for c, s in zip(cos, sin, strict=True)]
        factors = stored([*x, *y])
        x, y = factors[: len(x)], factors[len(x) :]
        return torch.stack([index_sum(a * b, row, n_rows) for a in x for b in y], dim=1)

    def of_lengths(self, lengths: Tensor, shifts: Tensor) -> Tensor:
        """Gaussians of the mean lengths of two edges."""
        return torch.exp(-self.angular_eta * (lengths - shifts) ** 2)

    def of_angles(self, cosines: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Of the angle between two edges, and of those that functions are centred at."""
        of_difference = cosines * cos + torch.sqrt(1 - cosines * cosines) * sin
        # A power, which would be computed once more for its derivative.
        return torch.exp(self.zeta * torch.log(((1 + of_difference) / 2).clamp(min=NEARLY_ZERO)))


class OuterProducts(TrilinearForm):
    r"""Sum over triplets of :math:`g \cdot (x_t \otimes y_t)`; its derivative 0 is their sums.

    Of x (K, T) and y (L, T), and g (R, K L), of which each triplet takes a row.

    Parameters
    ----------
    row
        Of each triplet, shape (T,).
    n_rows
        R.
    """

    def __init__(self, row: Tensor, n_rows: int):
        self.row, self.n_rows = row, n_rows

    def partial(self, n: int, x: Tensor, y: Tensor) -> Tensor:
        """Sums (R, K L) for n = 0; how the form depends on x and y for n = 1 and 2."""
        if n == 0:
            return self._sums(x, y)
        K, result = x.shape[1] // y.shape[0], []
        for piece in pieces(len(self.row), x.shape[1], x.device):
            g = x.index_select(0, self.row[piece]).T.contiguous()  # (K L, T)
            if n == 1:
                result.append((g.unflatten(0, (K, -1)) * y[:, piece]).sum(1))
            else:
                result.append((g.unflatten(0, (-1, K)) * y[:, piece].unsqueeze(1)).sum(0))
        return torch.cat(result, dim=1) if result else x.new_zeros(K, 0)

    def _sums(self, x: Tensor, y: Tensor) -> Tensor:
        size = x.shape[0] * y.shape[0]
        result = x.new_zeros(self.n_rows, size)
        for piece in pieces(len(self.row), size, x.device):
            products = (x[:, piece].unsqueeze(1) * y[:, piece]).flatten(0, 1)  # (K L, T)
            result.index_add_(0, self.row[piece], products.T.contiguous())
        return result


def pair_index(a: Tensor, b: Tensor, n: int) -> Tensor:
    """The number of a pair a ≤ b of n elements, in the order of `torch.triu_indices`."""
    return a * n - a * (a + 1) // 2 + b


def radial_sums(terms: Tensor, elements: Tensor, n: int, graph: AtomicGraph) -> Tensor:
    """Sums of terms (E, K) over the neighbours of each of n elements: shape (N, n K)."""
    N, K = number_of_atoms(graph), terms.shape[1]
    if is_neighbour_matrix(graph):
        one_hot = elements.unsqueeze(1) == torch.arange(n, device=elements.device)
        return sum_outer_products_over_neighbours(one_hot.to(terms), terms, graph).flatten(1)
    return index_sum(terms, graph.neighbour_list[0] * n + elements, N * n).view(N, n * K)


def stored(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same tensors, from one that holds them all.

    Compilers would else make one loop of what they are computed from and for: where many numbers
    are gathered or scattered, nothing of it is vectorised.
    """
    return list(torch.stack(list(tensors)).unbind())
