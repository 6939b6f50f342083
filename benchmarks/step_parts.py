"""Breakdown of the time of GradNorm's step: python -m benchmarks.step_parts [--only toy]

Each part is a function of `balancers`, timed from outside, which adds some microseconds. The whole step and a static
step are listed beside the parts. One thread, processor time, medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from typing import Any

import torch

from balancers import gradnorm, measured_backward, one_pass
from benchmarks.shapes import SHAPES
from benchmarks.step import CONTENDERS, Contender
from hpo.tracking.backend import machine

PARTS = (
    (measured_backward, "find_cut", "read the graph"),
    (one_pass.OnePass, "_multiply", "T gradients of a linear W: stack, mask, product, norms"),
    (gradnorm.GradNorm, "_update_on_host", "L_grad, Adam and scale on T numbers"),
)


def timed(owner: Any, name: str, seconds: dict[str, float]) -> None:
    """Make a function add its duration to ``seconds[name]``."""
    plain = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        begin = time.process_time()
        try:
            return plain(*args, **kwargs)
        finally:
            seconds[name] += time.process_time() - begin

    setattr(owner, name, wrapped)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="toy", help="shapes whose name contains this")
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    Contender.clock = staticmethod(time.process_time)
    seconds: dict[str, float] = defaultdict(float)
    for owner, name, _ in PARTS:
        timed(owner, name, seconds)
    print(f"{machine()}; torch {torch.__version__}; 1 thread; processor time in microseconds")
    print(f"medians of {options.steps} steps")
    for shape in (shape for shape in SHAPES if options.only in shape):
        torch.manual_seed(0)
        network = SHAPES[shape]()
        ours, static, floor = (Contender(CONTENDERS[name], network) for name in ("one pass", "static", "floor"))
        rows: dict[str, list[float]] = defaultdict(list)
        for step in range(options.steps + 10):
            seconds.clear()
            whole = ours.seconds(1)
            if step >= 10:
                measured = dict(seconds) | {"step": whole, "static": static.seconds(1), "floor": floor.seconds(1)}
                for name, value in measured.items():
                    rows[name].append(value * 1e6)
        middle = {name: statistics.median(values) for name, values in rows.items()}
        print(f"\n**{shape}**\n\n| part | time | of a static step |\n|---|---|---|")
        more = middle["step"] - middle["static"]
        named = {words: middle[name] for _, name, words in PARTS if name in middle}
        rest = more - sum(named.values())
        floor_more = middle["floor"] - middle["static"]
        table = named | {
            "hooks, records, the rest": rest,
            "all that GradNorm adds": more,
            "the floor": floor_more,
        }
        for words, value in {"static step": middle["static"], **table}.items():
            print(f"| {words} | {value:.0f} | {100 * value / middle['static']:.1f}% |")


if __name__ == "__main__":
    main()
