"""The columns of Census-Income (KDD), and the encoding of its rows as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

MIN_FREQUENCY = 30  # rows of the training split a category needs for a column of its own

# The 42 columns in the files' order; the files carry no header. Names follow the UCI KDD archive's description.
COLUMNS = (
    "age",
    "class_of_worker",
    "detailed_industry_recode",
    "detailed_occupation_recode",
    "education",
    "wage_per_hour",
    "enroll_in_edu_inst_last_wk",
    "marital_stat",
    "major_industry_code",
    "major_occupation_code",
    "race",
    "hispanic_origin",
    "sex",
    "member_of_a_labor_union",
    "reason_for_unemployment",
    "full_or_part_time_employment_stat",
    "capital_gains",
    "capital_losses",
    "dividends_from_stocks",
    "tax_filer_stat",
    "region_of_previous_residence",
    "state_of_previous_residence",
    "detailed_household_and_family_stat",
    "detailed_household_summary_in_household",
    "instance_weight",
    "migration_code_change_in_msa",
    "migration_code_change_in_reg",
    "migration_code_move_within_reg",
    "live_in_this_house_1_year_ago",
    "migration_prev_res_in_sunbelt",
    "num_persons_worked_for_employer",
    "family_members_under_18",
    "country_of_birth_father",
    "country_of_birth_mother",
    "country_of_birth_self",
    "citizenship",
    "own_business_or_self_employed",
    "fill_inc_questionnaire_for_veterans_admin",
    "veterans_benefits",
    "weeks_worked_in_year",
    "year",
    "income",
)
LOGARITHMIC = (  # money and counts with long tails: log(1 + x), then standardised
    "wage_per_hour",
    "capital_gains",
    "capital_losses",
    "dividends_from_stocks",
    "num_persons_worked_for_employer",
)
LINEAR = ("age", "weeks_worked_in_year")  # standardised; inputs of the leaky version alone

# Never inputs: the two labels, and the survey's sampling weight, which describes no person.
LABELS = ("income", "marital_stat", "instance_weight")
# Tell a label almost outright: the family columns spell out "never marr", the tax column who files jointly,
# the under-18 column who is a child, employment the weeks worked. The year separates two surveys and nothing else.
LEAKS = (
    "tax_filer_stat",
    "detailed_household_and_family_stat",
    "detailed_household_summary_in_household",
    "family_members_under_18",
    "full_or_part_time_employment_stat",
    "age",
    "weeks_worked_in_year",
    "year",
)


def input_columns(leaky: bool) -> list[str]:
    """The source columns that the network sees: 31, or 39 in the leaky version."""
    removed = LABELS if leaky else LABELS + LEAKS
    return [column for column in COLUMNS if column not in removed]


@dataclass(frozen=True)
class Encoding:
    """The encoding of a table as the network's input, fitted on training rows and the same for every split.

    Attributes:
        means: mean of each numeric column, after log(1 + x) where that applies, by column.
        scales: its standard deviation, 1 where the column is constant.
        categories: the values with a column of their own, by column.
    """

    means: dict[str, float]
    scales: dict[str, float]
    categories: dict[str, list[str]]

    @classmethod
    def fit(cls, table: pd.DataFrame, leaky: bool) -> Encoding:
        """Take means, scales and categories from these rows."""
        columns = input_columns(leaky)
        numeric = [column for column in columns if column in LOGARITHMIC + LINEAR]
        values = {column: _numbers(table, column) for column in numeric}
        return cls(
            means={column: float(x.mean()) for column, x in values.items()},
            scales={column: float(x.std()) or 1.0 for column, x in values.items()},
            categories={column: _frequent(table[column]) for column in columns if column not in numeric},
        )

    @property
    def names(self) -> list[str]:
        """The meaning of each encoded column: ``"capital_gains"``, ``"sex=Female"``."""
        one_hot = [f"{column}={value}" for column, values in self.categories.items() for value in values]
        return [*self.means, *one_hot]

    def transform(self, table: pd.DataFrame) -> NDArray[np.float32]:
        """Encode N rows to (N, len(names)); an unknown category leaves its columns at 0."""
        inputs = np.zeros((len(table), len(self.names)), dtype=np.float32)
        for place, (column, mean) in enumerate(self.means.items()):
            inputs[:, place] = (_numbers(table, column) - mean) / self.scales[column]
        start = len(self.means)
        for column, values in self.categories.items():
            _set_one_hot(inputs[:, start : start + len(values)], table[column], values)
            start += len(values)
        return inputs


def _numbers(table: pd.DataFrame, column: str) -> NDArray[np.float64]:
    values = table[column].to_numpy(dtype=np.float64)
    return np.log1p(values) if column in LOGARITHMIC else values


def _frequent(column: pd.Series[Any]) -> list[str]:
    counts = column.astype(str).value_counts()
    return sorted(counts.index[counts >= MIN_FREQUENCY])


def _set_one_hot(inputs: NDArray[np.float32], column: pd.Series[Any], values: list[str]) -> None:
    """Put a 1 into (N, len(values)) where a row has the value."""
    import pandas as pd

    place = pd.Index(values).get_indexer(pd.Index(column.astype(str)))
    known = np.flatnonzero(place >= 0)
    inputs[known, place[known]] = 1.0


def targets(table: pd.DataFrame) -> NDArray[np.float32]:
    """All four targets of N rows, (N, 4): income and never married as 0 or 1, age in years, weeks worked."""
    columns = (
        table["income"] == "50000+.",
        table["marital_stat"] == "Never married",
        table["age"],
        table["weeks_worked_in_year"],
    )
    return np.stack([column.to_numpy(dtype=np.float32) for column in columns], axis=1)
