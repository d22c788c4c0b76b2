"""Names of the measurements that can be made of each cell."""

from typing import Final

MEASURES: Final = (
    *("perimeter", "circularity", "solidity", "eccentricity", "feret_min", "feret_max", "equivalent_diameter"),
    *("pallor_share", "pallor_depth", "density", "density_integral", "hue"),
)
