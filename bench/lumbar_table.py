"""Published means of the lumbar levels, from which L3 to L5 are made. Data only; nothing was fitted to a shape.

`note` says what of a row is our own estimate, and which numbers are quoted after others and not read in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

LEVELS = ("L1", "L2", "L3", "L4", "L5")


@dataclass(frozen=True)
class Series:
    """Means of L1 to L5, mm or degrees."""

    means: tuple[float, float, float, float, float]
    source: str
    note: str

    def ratio(self, level: str, base: str) -> float:
        return self.means[LEVELS.index(level)] / self.means[LEVELS.index(base)]

    def step(self, level: str, base: str) -> float:
        return self.means[LEVELS.index(level)] - self.means[LEVELS.index(base)]


PANJABI_1992 = "Panjabi et al., Spine 1992;17:299-306"
PANJABI_1993 = "Panjabi et al., Spine 1993;18:1298-1310"
BONCZAR_2024 = "Bonczar et al., Surg Radiol Anat 2024;47:22 (pooled, 18 studies)"
ZINDRICK_1987 = "Zindrick et al., Spine 1987;12:160-166"
MASHARAWI_2004 = "Masharawi et al., Spine 2004;29:1755-1763"
MASHARAWI_2011 = "Masharawi and Salame, Clin Anat 2011;24:858-867"
LI_2003 = "Li et al. 2003, doi 10.3969/j.issn.2095-252x.2003.02.008"
PETERS = "Peters et al., Interpars (anatomy of the lumbar pars interarticularis), abstract"

QUOTED = "quoted after a later compilation"
RECALLED = "quoted from memory, not checked against the paper"
PATEL = "quoted after Patel et al., J Anat Soc India 2007;56(1), right lower facets"

TABLE: Mapping[str, Series] = {
    "body_width_upper": Series((41.2, 42.6, 44.1, 46.6, 47.3), PANJABI_1992, QUOTED),
    "body_width_lower": Series((43.3, 45.5, 48.0, 49.5, 49.4), PANJABI_1992, RECALLED),
    "body_depth_upper": Series((34.1, 34.6, 35.2, 35.5, 34.7), PANJABI_1992, RECALLED),
    "body_depth_lower": Series((35.3, 34.9, 34.8, 33.9, 33.2), PANJABI_1992, RECALLED),
    "height_front": Series((24.54, 25.75, 26.83, 26.86, 27.44), BONCZAR_2024, QUOTED),
    "height_back": Series((26.57, 27.02, 26.67, 25.76, 24.11), BONCZAR_2024, QUOTED),
    "canal_width": Series((22.04, 22.15, 22.62, 23.19, 26.46), BONCZAR_2024, QUOTED),
    "canal_depth": Series((16.02, 15.08, 14.69, 15.06, 15.69), BONCZAR_2024, QUOTED),
    "pedicle_width": Series((8.7, 8.9, 10.3, 12.9, 18.0), ZINDRICK_1987, RECALLED),
    "pedicle_height": Series((15.4, 15.0, 14.9, 14.8, 14.0), ZINDRICK_1987, RECALLED),
    "facets_upper": Series((25.0, 27.0, 29.0, 33.0, 37.0), PANJABI_1993, "ours, within its limits"),
    "facets_lower": Series(
        (27.0, 29.0, 33.0, 37.0, 40.6), PANJABI_1993, "ours but the largest, 40.6 in the abstract"
    ),
    "facet_width": Series((12.4, 12.7, 13.8, 14.7, 15.6), PANJABI_1993, PATEL),
    "facet_height": Series((15.3, 16.0, 15.7, 16.2, 18.4), PANJABI_1993, PATEL),
    "facet_angle_upper": Series(
        (27.0, 29.0, 40.4, 44.0, 49.0), MASHARAWI_2004, "ours within the abstract's ranges"
    ),
    "facet_angle_lower": Series(
        (29.0, 33.9, 44.0, 50.0, 56.3), MASHARAWI_2004, "ours within the abstract's ranges"
    ),
    "isthmus_length": Series(
        (19.0, 18.0, 16.0, 13.0, 9.7),
        MASHARAWI_2011,
        "ours between 19.9 at T12 and 9.7 at L5 in the abstract",
    ),
    "pars_width": Series(
        (25.0, 27.0, 31.0, 37.0, 46.0), PETERS, "ours; the source says that it grows from L2 to L5"
    ),
    "transverse_width": Series((71.2, 76.1, 85.7, 79.4, 92.5), PANJABI_1992, RECALLED),
    "transverse_height": Series(
        (9.0, 9.0, 9.0, 9.0, 18.0), LI_2003, "ours; the source says twice as thick at L5"
    ),
    "spinous_length": Series((30.0, 32.0, 32.0, 29.0, 24.0), MASHARAWI_2011, "ours but the loss of 8 mm"),
    "spinous_height": Series((22.0, 23.0, 22.0, 19.0, 15.0), MASHARAWI_2011, "ours but the loss of 8 mm"),
}

#: Mean of the heights of T12's body at front and back: Kunkel et al., J Anat 2011;219:375-387 (quoted).
T12_HEIGHT_MM = 22.0
#: Discs T12-L1 (Bach et al., World Neurosurg 2019;124:e106-118, mean of both sexes) and L1-L2 to L5-S1 (Shin et al.,
#: Brain Spine 2024;5:104162), mm (quoted).
DISCS_MM = (5.2, 6.61, 7.90, 8.83, 9.31, 8.14)


def spacing_ratio(level: str, base: str) -> float:
    """Mean distance of a level's body centre to those of its neighbours, over that at `base`.

    The body of S1 is taken to be as high as that of L5: our estimate.
    """
    heights = np.mean([TABLE["height_front"].means, TABLE["height_back"].means], axis=0)
    column = np.array([T12_HEIGHT_MM, *heights, heights[-1]])
    steps = (column[:-1] + column[1:]) / 2 + np.array(DISCS_MM)
    spacing = (steps[:-1] + steps[1:]) / 2
    return float(spacing[LEVELS.index(level)] / spacing[LEVELS.index(base)])
