"""Arms in words: "GradNorm static (robust recipe, tail average)" for ``gradnorm_static/robust/tail``."""

from __future__ import annotations

from collections.abc import Callable

_RULES = {"loss": "1 / first loss", "gradient": "1 / first gradient norm"}


def arm_label(arm: str) -> str:
    """An arm's key as a person says it; a key of unknown form comes back as it is."""
    kind, *rest = arm.split("/", 2)
    words = _WORDS.get((kind, len(rest)))
    return words(*rest) if words else arm


def _settings(text: str) -> str:
    """``alpha=0.5123,lr=0.01`` as "alpha 0.512, lr 0.01"."""
    pairs = (part.partition("=") for part in text.split(","))
    return ", ".join(f"{name} {_short(value)}".strip() for name, _, value in pairs)


def _short(value: str) -> str:
    try:
        return f"{float(value):.3g}"
    except ValueError:
        return value


_NAMES = {  # as their papers write them
    "aligned_mtl": "Aligned-MTL",
    "cagrad": "CAGrad",
    "dwa": "DWA",
    "excess_mtl": "ExcessMTL",
    "fairgrad": "FairGrad",
    "famo": "FAMO",
    "geometric_mean": "geometric mean of the losses",
    "gradvac": "GradVac",
    "imtl_g": "IMTL-G",
    "imtl_l": "IMTL-L",
    "mgda": "MGDA",
    "nash_mtl": "Nash-MTL",
    "pcgrad": "PCGrad",
    "random": "random weights in every step (RLW)",
    "upgrad": "UPGrad",
}

_WORDS: dict[tuple[str, int], Callable[..., str]] = {  # (kind, parts after it) -> words
    ("static", 1): "static point {}".format,
    ("equal", 0): "equal weights".format,
    ("uncertainty", 0): "uncertainty weighting".format,
    ("single_task", 1): "single task {}".format,
    ("frozen", 1): lambda rule: f"frozen weights ({_RULES.get(rule, rule)})",
    ("known_optimum", 0): "the weights that the problem was made for".format,
    ("gradnorm", 2): lambda recipe, settings: f"GradNorm ({recipe} recipe, {_settings(settings)})",
    ("gradnorm_static", 2): lambda recipe, average: (
        f"GradNorm static ({recipe} recipe, {average.replace('_', ' ')} average)"
    ),
    **{(method, 0): name.format for method, name in _NAMES.items()},
}
