"""Values of a problem's own arguments."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import AlphaSpace, argument_space, argument_text, argument_values

RANGE = "a list [lowest, highest] of two numbers with lowest < highest"
LOG = "{log: [lowest, highest]} with 0 < lowest < highest"
CHOICE = "{choice: [...]} with at least two different texts, numbers, true or false"


def values(count=5, **given):
    return argument_values({name: argument_space(name, one) for name, one in given.items()}, count)


def test_one_range_is_spaced_evenly_from_end_to_end():
    assert values(3, lr={"log": [1e-4, 1e-2]}) == [{"lr": 1e-4}, {"lr": 1e-3}, {"lr": 1e-2}]
    assert values(3, decay=[0, 0.5]) == [{"decay": 0.0}, {"decay": 0.25}, {"decay": 0.5}]
    assert values(1, decay=[0, 0.5]) == [{"decay": 0.25}]
    assert values(3, layers=[1, 9]) == [{"layers": 1}, {"layers": 5}, {"layers": 9}]


def test_few_combinations_are_all_taken():
    assert values(4, width={"choice": [64, 128]}, flag={"choice": [True, False]}) == [
        {"width": 64, "flag": True},
        {"width": 64, "flag": False},
        {"width": 128, "flag": True},
        {"width": 128, "flag": False},
    ]
    assert values(9, layers=[1, 3]) == [{"layers": 1}, {"layers": 2}, {"layers": 3}]


def test_several_arguments_are_spread_over_each_range():
    found = values(8, lr={"log": [1e-4, 1e-1]}, decay=[0, 1])
    assert len({argument_text(one) for one in found}) == 8
    for low in (1e-4, 1e-3, 1e-2):  # each decade has its share
        assert 2 <= sum(low <= one["lr"] < 10 * low for one in found) <= 4
    assert 3 <= sum(one["decay"] < 0.5 for one in found) <= 5


@settings(deadline=None)
@given(
    st.floats(1e-6, 1.0),
    st.floats(1.5, 1e6),
    st.integers(1, 20),
    st.integers(1, 5),
    st.integers(2, 40),
    st.booleans(),
)
def test_values_stay_in_their_ranges_and_their_texts_tell_them_apart(low, factor, count, first, more, log):
    ends = [low, low * factor]
    found = values(count, x={"log": ends} if log else ends, k={"log": [first, first + more]})
    assert 1 <= len(found) <= count
    assert all(ends[0] <= one["x"] <= ends[1] and first <= one["k"] <= first + more for one in found)
    assert len({argument_text(one) for one in found}) == len(found)


@pytest.mark.parametrize(
    ("found", "rule"),
    [
        ([2, 1], RANGE),
        ([1, 1], RANGE),
        ([1], RANGE),
        ([1, "2"], RANGE),
        ([True, 2], RANGE),
        ([0, float("inf")], RANGE),
        (3, RANGE),
        ({"log": [0, 1]}, LOG),
        ({"log": [2, 1]}, LOG),
        ({"log": 3}, LOG),
        ({"choice": [1]}, CHOICE),
        ({"choice": [1, 1]}, CHOICE),
        ({"choice": []}, CHOICE),
        ({"choice": [[1], [2]]}, CHOICE),
        ({"choice": "ab"}, CHOICE),
        ({"lin": [1, 2]}, "[lowest, highest], {log: [lowest, highest]} or {choice: [value, value, ...]}"),
    ],
    ids=str,
)
def test_a_range_that_is_none(found, rule):
    with pytest.raises(ValueError, match=f"^lr: expected {re.escape(rule)}, got "):
        argument_space("lr", found)


def test_the_sweep_of_alpha_can_search_them_too():
    space = AlphaSpace(high=1.0, arguments=("", "lr=0.1"))
    assert space.starting_points() == [
        {"alpha": 0.0, "arguments": ""},
        {"alpha": 0.5, "arguments": "lr=0.1"},
        {"alpha": 1.0, "arguments": ""},
    ]
