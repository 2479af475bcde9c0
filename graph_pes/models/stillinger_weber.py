"""The Stillinger-Weber potential for tetrahedral solids and liquids."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import (
    AtomicGraph,
    PropertyKey,
    neighbour_distances,
    neighbour_pairs,
    neighbour_vectors,
    sum_over_central_atom_index,
    sum_over_neighbours,
)

from .base import GraphPESModel

COS_TETRAHEDRAL_ANGLE = -1 / 3


def exponential_cutoff(r: Tensor, length: Tensor, cutoff: Tensor) -> Tensor:
    r"""The function :math:`e^{\ell / (r - r_c)}`, which is 0 with all its derivatives at r_c.

    Parameters
    ----------
    r
        Distances in Å, shape (E,).
    length, cutoff
        :math:`\ell` and :math:`r_c` in Å, shape ().

    Returns
    -------
    Tensor
        Shape (E,), exactly 0 from the cutoff on.

    Examples
    --------
    >>> exponential_cutoff(torch.tensor([1.0, 2.0, 3.0]), torch.tensor(1.0), torch.tensor(2.0))
    tensor([0.3679, 0.0000, 0.0000])
    """
    # The exponent is made harmless before it is left out: no infinity reaches the gradient.
    inside = r < cutoff
    gap = torch.where(inside, cutoff - r, 1.0)
    return torch.where(inside, torch.exp(-length / gap), 0.0)


def two_body(r: Tensor, sigma: Tensor, A: Tensor, B: Tensor, p: Tensor, q: Tensor) -> Tensor:
    r"""Two-body energy :math:`A [B (\sigma/r)^p - (\sigma/r)^q]`, in ε and before the cutoff.

    Parameters
    ----------
    r
        Distances in Å, shape (E,).
    sigma
        In Å, shape ().
    A, B, p, q
        Dimensionless, shape ().

    Returns
    -------
    Tensor
        Shape (E,).
    """
    x = sigma / r
    return A * (B * x**p - x**q)


def three_body(cosines: Tensor, lambda_: Tensor) -> Tensor:
    r"""Three-body energy :math:`\lambda (\cos\theta + 1/3)^2`, in ε and before the cutoffs.

    Parameters
    ----------
    cosines
        :math:`\cos\theta` of the angles at the central atoms, shape (T,).
    lambda_
        Dimensionless, shape ().

    Returns
    -------
    Tensor
        Shape (T,).
    """
    return lambda_ * (cosines - COS_TETRAHEDRAL_ANGLE) ** 2


class StillingerWeber(GraphPESModel):
    r"""Stillinger-Weber potential, by default that of silicon.

    .. math::

        E = \varepsilon \sum_i \sum_{j>i} \varphi_2(r_{ij})
          + \varepsilon \sum_i \sum_{j \ne i} \sum_{k > j} \varphi_3(r_{ij}, r_{ik}, \theta_{jik})

    .. math::

        \varphi_2(r) &= A \left[ B \left(\frac{\sigma}{r}\right)^p
            - \left(\frac{\sigma}{r}\right)^q \right] \exp\left(\frac{\sigma}{r - a\sigma}\right) \\
        \varphi_3(r, s, \theta) &= \lambda \left(\cos\theta + \tfrac{1}{3}\right)^2
            \exp\left(\frac{\gamma\sigma}{r - a\sigma}\right)
            \exp\left(\frac{\gamma\sigma}{s - a\sigma}\right)

    both zero from :math:`a\sigma` on. Half of each two-body term goes to either atom, and each
    three-body term to its central atom. The potential is smooth everywhere.

    The cutoff of the model is :math:`a\sigma` as given here. While :math:`\sigma` or :math:`a`
    are trained, the range of the interaction follows them, but it can't outgrow the neighbours
    that graphs list: it is at most the cutoff (to 0.1 %, where the interaction is still zero to
    within 1e-200).

    Parameters
    ----------
    lambda_
        :math:`\lambda`, strength of the three-body term; trained.
    epsilon
        :math:`\varepsilon`, depth of the two-body well, in eV (50 kcal/mol); trained.
    sigma
        :math:`\sigma`, unit of length, in Å; trained.
    A, B, a, p, q, gamma
        The dimensionless others, as pairs (value, whether it is trained).

    Raises
    ------
    ValueError
        If one of these is no such pair.

    Examples
    --------
    >>> from ase.build import bulk
    >>> model = StillingerWeber()
    >>> silicon = AtomicGraph.from_ase(bulk("Si", a=5.431), cutoff=model.cutoff_value)
    >>> round(model.predict_energy(silicon).item() / 2, 4)  # eV/atom, -2 epsilon
    -4.3364

    References
    ----------
    Stillinger and Weber, doi:10.1103/PhysRevB.31.5262.
    """

    lambda_: Tensor
    epsilon: Tensor
    sigma: Tensor
    A: Tensor
    B: Tensor
    a: Tensor
    p: Tensor
    q: Tensor
    gamma: Tensor

    def __init__(
        self,
        lambda_: float = 21.0,
        epsilon: float = 2.1682,
        sigma: float = 2.0951,
        A: tuple[float, bool] = (7.049556277, False),
        B: tuple[float, bool] = (0.6022245584, False),
        a: tuple[float, bool] = (1.8, False),
        p: tuple[float, bool] = (4, False),
        q: tuple[float, bool] = (0, False),
        gamma: tuple[float, bool] = (1.2, False),
    ):
        given = {"A": A, "B": B, "a": a, "p": p, "q": q, "gamma": gamma}
        for name, pair in given.items():
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise ValueError(f"expected {name}=(value, trainable), got {name}={pair!r}")
        cutoff = float(a[0]) * sigma
        super().__init__(cutoff, ["local_energies"], three_body_cutoff=cutoff)
        trained = {"lambda_": lambda_, "epsilon": epsilon, "sigma": sigma}
        pairs = {name: (value, True) for name, value in trained.items()} | given
        for name, (value, trainable) in pairs.items():
            tensor = torch.tensor(float(value), dtype=torch.get_default_dtype())
            if trainable:
                self.register_parameter(name, nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor)

    @classmethod
    def monatomic_water(cls) -> StillingerWeber:
        r"""The model mW of water, a structure of which holds its oxygen atoms alone.

        :math:`\varepsilon` = 0.268381 eV, :math:`\sigma` = 2.3925 Å, :math:`\lambda` = 23.15;
        Molinero and Moore, doi:10.1021/jp805227c.

        Examples
        --------
        >>> round(StillingerWeber.monatomic_water().cutoff_value, 4)
        4.3065
        """
        return cls(lambda_=23.15, epsilon=0.268381, sigma=2.3925)

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Local energies: shape (N,)."""
        r, cutoff = neighbour_distances(graph), self.interaction_cutoff()
        # Not all graphs list neighbours beyond the cutoff of the model: put those out of reach.
        r = torch.where(r < self.cutoff, r, 2 * self.cutoff)
        phi_2 = two_body(r, self.sigma, self.A, self.B, self.p, self.q)
        phi_2 = phi_2 * exponential_cutoff(r, self.sigma, cutoff)
        smooth_3 = exponential_cutoff(r, self.gamma * self.sigma, cutoff)

        directions = neighbour_vectors(graph) / r[:, None]  # (E, 3)
        ij, ik = neighbour_pairs(graph, self.cutoff_value)
        cosines = (directions.index_select(0, ij) * directions.index_select(0, ik)).sum(-1)
        phi_3 = three_body(cosines, self.lambda_)
        phi_3 = phi_3 * smooth_3.index_select(0, ij) * smooth_3.index_select(0, ik)

        central = graph.neighbour_list[0].index_select(0, ij)
        energies = sum_over_neighbours(phi_2, graph) / 2
        energies = energies + sum_over_central_atom_index(phi_3, central, graph)
        return {"local_energies": self.epsilon * energies}

    def interaction_cutoff(self) -> Tensor:
        r"""The distance :math:`a\sigma` in Å, shape (), bounded by the cutoff of the model."""
        # Exactly at the bound, rounding would decide whether a and σ get a gradient.
        return (self.a * self.sigma).clamp(max=1.001 * self.cutoff.to(self.sigma.dtype))

    def extra_repr(self) -> str:  # noqa: D102
        names = ("lambda_", "epsilon", "sigma", "A", "B", "a", "p", "q", "gamma")
        return ", ".join(f"{name}={getattr(self, name).item():.6g}" for name in names)
