"""Search spaces: points on the simplex of loss weights, and the range of GradNorm's alpha.

Needs numpy, scipy and optuna; no torch and no ray, so that any tuner can use it:

>>> from search_spaces import points
>>> points("sobol", tasks=3, points=16, seed=1, ratio=100.0).shape
(16, 3)

A weighting is T numbers > 0 with sum T, one for each task. The designs (`log_lattice`, `dirichlet`, `sobol`,
`uniform`) are functions of the number of tasks, of points, and a seed; `points` calls one by name, puts equal weights
first and leaves no direction in twice; `explicit` does so with a list of your own. `AlphaSpace` is the other search,
over one number however many tasks there are. `region` finds the center and the ratio of a design from
weights that need no search. `refined` proposes weights near good ones. `argument_values` covers the ranges of a
problem's own arguments, such as its learning rate. `clr`, `ilr` and their inverses turn weightings into log-ratios.
"""

from search_spaces.alpha import AlphaSpace
from search_spaces.arguments import argument_space, argument_text, argument_values
from search_spaces.designs import DESIGNS, Design, explicit, points
from search_spaces.dirichlet import dirichlet
from search_spaces.log_lattice import log_lattice
from search_spaces.log_ratio import close, clr, clr_inverse, ilr, ilr_inverse
from search_spaces.refinement import SAMPLERS, refined, sampler_fault
from search_spaces.region import region
from search_spaces.sobol import sobol
from search_spaces.uniform import uniform

__all__ = [
    "DESIGNS",
    "SAMPLERS",
    "AlphaSpace",
    "Design",
    "argument_space",
    "argument_text",
    "argument_values",
    "close",
    "clr",
    "clr_inverse",
    "dirichlet",
    "explicit",
    "ilr",
    "ilr_inverse",
    "log_lattice",
    "points",
    "refined",
    "region",
    "sampler_fault",
    "sobol",
    "uniform",
]
