"""The benchmark of the paper's networks runs on a CPU, at a small size."""

import pytest

from tests.helpers.benchmark_tables import benchmark


@pytest.mark.slow
def test_the_benchmark_of_a_dense_step_prints_its_table():
    small = ["--device", "cpu", "--width", "0.125", "--image-size", "32", "--batch", "2", "--rounds", "2"]
    printed, rows = benchmark("benchmarks.dense_step", *small)
    assert "pictures made up" in printed
    assert [row[3] for row in rows] == ["step", "static", "GradNorm", "static", "GradNorm"]
    assert all(len(row) == 8 for row in rows)
    assert all(float(row[4]) > 0 for row in rows[1:])
    flops = [float(row[7].strip(" |")) for row in rows[1:]]
    for static, gradnorm in zip(flops[::2], flops[1::2], strict=True):
        assert 0 < static < gradnorm < 1.5 * static
