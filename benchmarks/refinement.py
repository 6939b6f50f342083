"""Quality of the weights that a refinement of 16 points finds, by sampler, on surfaces in closed form.

Run ``python -m benchmarks.refinement`` (some minutes). Each study draws a smooth surface of the score over the
log-ratios of the weights, with its lowest point at a random place near the start, five known points, and noise of a
given size; each sampler then proposes four batches of four. Shown is the true score of the point that was found best,
above the lowest there is; every sampler sees the same surfaces, starts and noise.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from search_spaces import SAMPLERS, ilr, ilr_inverse, refined

BATCHES, BATCH = 4, 4


def excess(tasks: int, noise: float, sampler: str, seed: int) -> float:
    """Run one study; return how far the best point found is above the lowest score."""
    rng = np.random.default_rng(seed)
    n = tasks - 1
    best, factor = rng.normal(0, 1, n), rng.normal(size=(n, n))
    bowl = factor @ factor.T / n + 0.3 * np.eye(n)
    strays = rng.normal(0, noise, 1000)  # the same for every sampler

    def truth(z: np.ndarray) -> float:
        away = z - best
        return float(2 * away @ bowl @ away / (1 + 0.1 * away @ away))

    places = [np.zeros(n), *(rng.normal(0, size, n) for size in (0.7, 0.7, 1.5, 1.5))]
    known = [(ilr_inverse(z), truth(z) + strays[k]) for k, z in enumerate(places)]
    for batch in range(BATCHES):
        for w in refined(np.ones(tasks).tolist(), known, BATCH, sampler, 100 * seed + batch):
            known.append((w, truth(ilr(w)) + strays[len(known)]))
    return truth(ilr(min(known, key=lambda pair: pair[1])[0]))


def main() -> None:
    """Print each sampler's mean and median and its seconds per point, by number of tasks and noise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=20, help="surfaces per row")
    studies = parser.parse_args().studies
    print("| tasks | noise | sampler | mean | median | seconds per point |\n|---|---|---|---|---|---|")
    for tasks in (2, 3, 5):
        for noise in (0.1, 0.5):
            for sampler in SAMPLERS:
                start = time.perf_counter()
                found = [excess(tasks, noise, sampler, seed) for seed in range(studies)]
                each = (time.perf_counter() - start) / (studies * BATCHES * BATCH)
                row = f"{np.mean(found):.2f} | {np.median(found):.2f} | {each:.2f}"
                print(f"| {tasks} | {noise} | {sampler} | {row} |", flush=True)


if __name__ == "__main__":
    main()
