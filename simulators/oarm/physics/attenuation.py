"""Mass attenuation coefficients and the spectrum.

Coefficients: J. H. Hubbell and S. M. Seltzer, Tables of X-Ray Mass Attenuation Coefficients, NISTIR 5632 (version
1.4, 2004); cortical bone as in ICRU Report 44. Between the tabulated energies they are interpolated on logarithmic
axes. The tables begin at 40 keV, above the K edge of barium (37.4 keV); softer photons do not pass a trunk.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

ENERGY_KEV = np.array([40.0, 50.0, 60.0, 80.0, 100.0, 150.0])
#: cm2/g at ENERGY_KEV.
MASS_ATTENUATION = {
    "water": np.array([0.2683, 0.2269, 0.2059, 0.1837, 0.1707, 0.1505]),
    "bone": np.array([0.6655, 0.4242, 0.3148, 0.2229, 0.1855, 0.1480]),
    "iron": np.array([3.629, 1.958, 1.205, 0.5952, 0.3717, 0.1964]),
    "aluminium": np.array([0.5685, 0.3681, 0.2778, 0.2018, 0.1704, 0.1378]),
    "pmma": np.array([0.2350, 0.2074, 0.1924, 0.1751, 0.1641, 0.1456]),
    "barium": np.array([24.57, 13.79, 8.511, 3.963, 2.196, 0.7828]),
    "sulphur": np.array([0.9872, 0.5849, 0.4053, 0.2585, 0.2020, 0.1506]),
    "oxygen": np.array([0.2585, 0.2132, 0.1907, 0.1678, 0.1551, 0.1361]),
}
#: g/cm3. Steel is counted as iron of the density of stainless steel.
DENSITY = {"water": 1.0, "bone": 1.92, "steel": 7.9, "aluminium": 2.699, "pmma": 1.19, "barium_sulphate": 4.5}
#: Shares of mass in BaSO4.
_BARIUM_SULPHATE = {"barium": 0.588, "sulphur": 0.137, "oxygen": 0.275}


def _mass(name: str, kev: Array) -> Array:
    """cm2/g of one row of the table at `kev` (n,)."""
    return np.asarray(np.exp(np.interp(np.log(kev), np.log(ENERGY_KEV), np.log(MASS_ATTENUATION[name]))))


def per_mm(material: str, kev: Array, barium_sulphate_share: float = 0.10) -> Array:
    """Linear attenuation (n,) per mm of water, bone, steel, aluminium or cement at `kev` (n,) from 40 to 150."""
    if material == "cement":
        salt = sum((share * _mass(name, kev) for name, share in _BARIUM_SULPHATE.items()), np.zeros_like(kev))
        part = barium_sulphate_share
        density = 1.0 / ((1.0 - part) / DENSITY["pmma"] + part / DENSITY["barium_sulphate"])
        return np.asarray(0.1 * density * ((1.0 - part) * _mass("pmma", kev) + part * salt))
    return 0.1 * DENSITY[material] * _mass("iron" if material == "steel" else material, kev)


def spectrum(tube_kv: float, filter_al_mm: float, bins: int) -> tuple[Array, Array]:
    """Energies (n,) keV and shares (n,) of the photons: bremsstrahlung after Kramers behind aluminium, from 40 keV.

    Kramers (Phil. Mag. 46, 1923): the number of photons at E goes with (E0 - E) / E. No lines of tungsten.
    """
    edges = np.linspace(40.0, tube_kv, bins + 1)
    kev = 0.5 * (edges[1:] + edges[:-1])
    weight = (tube_kv - kev) / kev * np.exp(-per_mm("aluminium", kev) * filter_al_mm)
    return kev, weight / weight.sum()
