"""Hashes of data that a released version has written: a change of one would run every finished trial again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hpo.core.trial import TrialConfig
from hpo.problems import load_problem

# Name, arguments, hash of the data, identity of a trial.
KNOWN: list[tuple[str, dict[str, Any], str, str]] = [
    ("census", {}, "e8ae83836d251a99", "57fe500a5716ec8d"),
    ("census", {"preset": "full"}, "8e3513224a193cab", "0687b97af7c51656"),
    ("census", {"leaky": True}, "d874405b90b0664e", "48a0eb6307f48811"),
    ("census", {"weeks_worked": True}, "d38b6aa7ac84eda7", "06f1549514af90e6"),
    ("earth", {}, "3bc10ff42ac0cc88", "b9f82ac922b45ae7"),
    ("multi_fashion", {}, "4990886b33361003", "91d2e13e44ea30f6"),
    ("multi_fashion", {"images": "fashion_mnist"}, "82da13c1fd4b390a", "da72e805d78b4934"),
    ("multi_fashion", {"preset": "full"}, "651979851f19e0e8", "be9212d4ca7fab9a"),
    ("nyuv2", {"image_size": 32, "batch_size": 2}, "a5f10634c4d65e25", "1ce5a129270850aa"),
    ("qm9", {}, "86624f88be55a200", "9de566db79e795f6"),
    ("qm9", {"preset": "full"}, "6360dc0ad9af781c", "caeb80380239d0b8"),
    ("toy", {}, "1bbe1953989fa5b0", "dcbf65ba2bcffdda"),
]


@pytest.mark.usefixtures("made_up_nyuv2")
@pytest.mark.parametrize(("name", "arguments", "data_hash", "identity"), KNOWN)
def test_hashes_and_identities_stay_as_they_were(
    name: str, arguments: dict[str, Any], data_hash: str, identity: str
) -> None:
    found = load_problem(name, arguments).data_hash()
    assert found == data_hash
    trial = TrialConfig(name, arguments, found, "equal", {}, 0, 2)
    assert trial.identity == replace(trial, workers=1).identity == identity
    assert replace(trial, workers=2).identity != identity
