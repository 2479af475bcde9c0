"""The Lennard-Jones potential, for one kind of atom and for mixtures."""

from __future__ import annotations

import torch
from torch import Tensor

from graph_pes.atomic_graph import DEFAULT_CUTOFF
from graph_pes.nn.envelopes import SmoothOnsetEnvelope
from graph_pes.nn.per_element import PerElementParameter
from graph_pes.periodic_table import COVALENT_RADII

from .pair_potential import PairPotential, logarithm_of


def lennard_jones(r: Tensor, sigma: Tensor, epsilon: Tensor) -> Tensor:
    r"""Lennard-Jones energy, :math:`4\varepsilon [(\sigma/r)^{12} - (\sigma/r)^6]`.

    Parameters
    ----------
    r
        Distances in Å, shape (E,).
    sigma, epsilon
        In Å and eV, shape () or (E,).

    Returns
    -------
    Tensor
        In eV, shape (E,).

    Examples
    --------
    >>> one = torch.tensor(1.0)
    >>> lennard_jones(torch.tensor([1.0, 2 ** (1 / 6)]), sigma=one, epsilon=one)
    tensor([ 0., -1.])
    """
    x6 = ((sigma / r) ** 2) ** 3
    return 4 * epsilon * (x6 * x6 - x6)


class LennardJones(PairPotential):
    r"""Lennard-Jones potential.

    .. math::

        V(r) = V_\text{LJ}(r) - s \, V_\text{LJ}(r_c), \qquad
        V_\text{LJ}(r) = 4\varepsilon \left[ \left(\frac{\sigma}{r}\right)^{12}
            - \left(\frac{\sigma}{r}\right)^{6} \right]

    ====================== ===============================================================
    :math:`\varepsilon`    depth of the well
    :math:`\sigma`         distance at which :math:`V_\text{LJ}` is zero
    :math:`s`              1 if shifted, else 0
    ====================== ===============================================================

    Without the shift the energy jumps by :math:`V_\text{LJ}(r_c)` when a pair crosses the
    cutoff; with it the energy is continuous, also while the parameters are trained, but
    forces still jump. Wrap the potential in `SmoothedPairPotential` for continuous forces.

    Parameters
    ----------
    cutoff
        :math:`r_c` in Å.
    epsilon
        In eV, positive; trained (as its logarithm).
    sigma
        In Å, positive; trained (as its logarithm).
    shift
        Whether to make the energy zero at the cutoff.

    Raises
    ------
    ValueError
        If ``epsilon`` or ``sigma`` is not positive.

    Examples
    --------
    >>> from ase import Atoms
    >>> from graph_pes import AtomicGraph
    >>> dimer = AtomicGraph.from_ase(Atoms("Ar2", [[0, 0, 0], [0, 0, 3.82]]), cutoff=8.5)
    >>> argon = LennardJones(cutoff=8.5, epsilon=0.0104, sigma=3.4)
    >>> round(argon.predict_energy(dimer).item(), 4)
    -0.0104

    References
    ----------
    Jones, doi:10.1098/rspa.1924.0082.
    """

    def __init__(
        self,
        cutoff: float = DEFAULT_CUTOFF,
        epsilon: float = 0.1,
        sigma: float = 1.0,
        shift: bool = False,
    ):
        super().__init__(cutoff)
        self._log_epsilon = logarithm_of("epsilon", epsilon)
        self._log_sigma = logarithm_of("sigma", sigma)
        self.shift = shift

    @staticmethod
    def from_ase(
        sigma: float = 1.0,
        epsilon: float = 1.0,
        rc: float | None = None,
        ro: float | None = None,
        smooth: bool = False,
    ) -> PairPotential:
        r"""The potential of ASE's calculator of the same name, with its arguments and defaults.

        Parameters
        ----------
        sigma
            In Å.
        epsilon
            In eV.
        rc
            Cutoff in Å, :math:`3\sigma` by default.
        ro
            Onset of the smoothing in Å, :math:`0.66 r_c` by default.
        smooth
            False: a `LennardJones` shifted to zero at the cutoff. True: a
            `SquaredOnsetLennardJones`, not shifted.
        """
        cutoff = 3 * sigma if rc is None else rc
        if not smooth:
            return LennardJones(cutoff, epsilon, sigma, shift=True)
        onset = 0.66 * cutoff if ro is None else ro
        return SquaredOnsetLennardJones(cutoff, epsilon, sigma, onset)

    @property
    def epsilon(self) -> Tensor:
        """Depth of the well in eV, shape ()."""
        return self._log_epsilon.exp()

    @property
    def sigma(self) -> Tensor:
        """Distance of zero energy in Å, shape ()."""
        return self._log_sigma.exp()

    def interaction(
        self, r: Tensor, Z_i: Tensor | None = None, Z_j: Tensor | None = None
    ) -> Tensor:
        """Energy of pairs (E,) in eV, whatever their elements."""
        sigma, epsilon = self.sigma, self.epsilon
        V = lennard_jones(r, sigma, epsilon)
        return V - lennard_jones(self.cutoff.to(r.dtype), sigma, epsilon) if self.shift else V

    def extra_repr(self) -> str:  # noqa: D102
        epsilon, sigma = self.epsilon.item(), self.sigma.item()
        return f"cutoff={self.cutoff_value:.3g}, {epsilon=:.3g}, {sigma=:.3g}, shift={self.shift}"


class SquaredOnsetLennardJones(PairPotential):
    r"""Lennard-Jones potential, smoothed as in ASE: in the squared distance.

    .. math::

        V(r) = f(r^2) \, V_\text{LJ}(r), \qquad
        f(x) = \frac{(r_c^2 - x)^2 (r_c^2 + 2x - 3r_o^2)}{(r_c^2 - r_o^2)^3}
        \quad \text{for } r_o^2 \le x < r_c^2

    with :math:`f = 1` below and 0 above. `SmoothedPairPotential`, which takes any potential,
    smooths in the distance itself.

    Parameters
    ----------
    cutoff
        :math:`r_c` in Å.
    epsilon
        In eV, positive; trained.
    sigma
        In Å, positive; trained.
    smoothing_onset
        :math:`r_o` in Å.

    Raises
    ------
    ValueError
        If the onset is not less than the cutoff.

    Examples
    --------
    >>> from ase import Atoms
    >>> from graph_pes import AtomicGraph
    >>> dimer = AtomicGraph.from_ase(Atoms("Ar2", [[0, 0, 0], [0, 0, 2 ** (1 / 6)]]), cutoff=3.0)
    >>> round(LennardJones.from_ase(smooth=True).predict_energy(dimer).item(), 4)
    -1.0
    """

    def __init__(self, cutoff: float, epsilon: float, sigma: float, smoothing_onset: float):
        super().__init__(cutoff)
        if not 0 <= smoothing_onset < cutoff:
            raise ValueError(
                f"expected 0 <= smoothing_onset < cutoff, got {smoothing_onset} with {cutoff=}"
            )
        self.potential = LennardJones(cutoff, epsilon, sigma)
        self.envelope = SmoothOnsetEnvelope(cutoff**2, smoothing_onset**2)

    def interaction(
        self, r: Tensor, Z_i: Tensor | None = None, Z_j: Tensor | None = None
    ) -> Tensor:
        """Energy of pairs (E,) in eV, whatever their elements."""
        return self.potential.interaction(r) * self.envelope(r * r)


class LennardJonesMixture(PairPotential):
    r"""Lennard-Jones potential with parameters for each element.

    .. math::

        V(r, Z_i, Z_j) = 4\varepsilon_{ij} \left[ \left(\frac{\sigma_{ij}}{r}\right)^{12}
            - \left(\frac{\sigma_{ij}}{r}\right)^{6} \right]

    Like elements have their own :math:`\sigma_{ii} = \sigma_i` and
    :math:`\varepsilon_{ii} = \varepsilon_i`. Unlike ones mix by the rules of Lorentz and
    Berthelot, each modified by a factor:

    .. math::

        \sigma_{ij} = \bar\nu_{ij} \, \frac{\sigma_i + \sigma_j}{2}, \qquad
        \varepsilon_{ij} = \bar\zeta_{ij} \, \sqrt{\varepsilon_i \varepsilon_j}

    ========================== ===========================================================
    ``sigma``                  :math:`\sigma_i` in Å, 0.9 covalent radii to begin with
    ``epsilon``                :math:`\varepsilon_i` in eV, 0.1 to begin with
    ``nu``, ``zeta``           factors :math:`\nu_{ij}`, :math:`\zeta_{ij}`, 1 to begin with
    :math:`\bar\nu_{ij}`       :math:`(\nu_{ij} + \nu_{ji}) / 2`, and so for :math:`\zeta`
    ========================== ===========================================================

    The factors are symmetrised so that the energy does not depend on which atom of a pair
    comes first: set both ``nu["Ne", "Ar"]`` and ``nu["Ar", "Ne"]``. All four are
    trained. To keep the potential physical, :math:`\sigma_{ij}` is at least 0.2 Å and no
    :math:`\varepsilon` is less than zero.

    Parameters
    ----------
    cutoff
        In Å.
    modulate_distances
        Whether there are factors :math:`\nu`; if not, :math:`\bar\nu = 1`.

    Examples
    --------
    >>> model = LennardJonesMixture()
    >>> model.sigma["Ne"], model.sigma["Ar"] = 2.8, 3.4
    >>> r, Ne, Ar = torch.tensor([3.1]), torch.tensor([10]), torch.tensor([18])
    >>> abs(model.interaction(r, Ne, Ar).item()) < 1e-6  # 3.1 Å is the mean
    True

    References
    ----------
    Lorentz, doi:10.1002/andp.18812480110; Berthelot, C. R. Acad. Sci. 126, 1703 (1898).
    """

    def __init__(self, cutoff: float = DEFAULT_CUTOFF, modulate_distances: bool = True):
        super().__init__(cutoff)
        radii = torch.tensor(COVALENT_RADII, dtype=torch.get_default_dtype())
        self.sigma = PerElementParameter(0.9 * radii)
        self.epsilon = PerElementParameter.full((), 0.1)
        self.zeta = PerElementParameter.full((), 1.0, index_dims=2)
        self.nu = PerElementParameter.full((), 1.0, index_dims=2) if modulate_distances else None

    def interaction(self, r: Tensor, Z_i: Tensor, Z_j: Tensor) -> Tensor:
        """Energy of pairs (E,) in eV."""
        like = Z_i == Z_j
        sigma_i, sigma_j = self.sigma(Z_i), self.sigma(Z_j)
        epsilon_i, epsilon_j = self.epsilon(Z_i).clamp(min=0), self.epsilon(Z_j).clamp(min=0)
        sigma = (sigma_i + sigma_j) / 2
        if self.nu is not None:
            sigma = sigma * _symmetric(self.nu, Z_i, Z_j)
        epsilon = _symmetric(self.zeta, Z_i, Z_j) * _sqrt(epsilon_i * epsilon_j)
        sigma = torch.where(like, sigma_i, sigma).clamp(min=0.2)
        epsilon = torch.where(like, epsilon_i, epsilon).clamp(min=0)
        return lennard_jones(r, sigma, epsilon)


def _symmetric(parameter: PerElementParameter, Z_i: Tensor, Z_j: Tensor) -> Tensor:
    """Mean of a parameter of pairs (E,) over both orders of each pair."""
    return (parameter(Z_i, Z_j) + parameter(Z_j, Z_i)) / 2


def _sqrt(x: Tensor) -> Tensor:
    """Square root with a gradient of zero, not infinity, at zero."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)
