"""Boxes around elements of a tensor."""

import torch

from balancers.boxes import ALL, apart, around, confined


def test_boxes_are_apart_only_if_no_element_is_in_both():
    first, rest, rows = (None, 0b001), (None, 0b110), (0b1, None)
    assert apart([first, rest])
    assert not apart([first, rest, rows])
    assert not apart([first, ALL])
    assert not apart([ALL, ALL])
    assert apart([ALL])


def test_the_box_around_two_has_both():
    assert around((None, 0b001), (None, 0b100)) == (None, 0b101)
    assert around((None, 0b001), (0b1, None)) == ALL
    assert around(ALL, (None, 0b1)) == ALL


def test_a_gradient_is_confined_to_runs_of_indices():
    gradient = torch.arange(1.0, 13).view(2, 6)
    kept = confined(gradient, (0b10, 0b101101))
    assert kept.tolist() == [[0] * 6, [7, 0, 9, 10, 0, 12]]
    assert confined(gradient, ALL) is gradient
