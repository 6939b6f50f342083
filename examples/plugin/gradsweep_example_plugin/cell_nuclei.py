"""Cell nuclei: is a tumour malignant, and how large are the largest nuclei? From averages over an image."""

from functools import cache

import torch
from sklearn.datasets import load_breast_cancer
from torch import Generator, nn, randperm, tensor
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.functional.classification import binary_auroc

from hpo.problems import Problem, Task

INPUTS = 20  # of the 30 columns: mean and standard error of ten measures over the nuclei of an image
WORST_AREA = 23  # the column with the mean over the three largest nuclei
SPLITS = {"train": slice(0, 369), "val": slice(369, 469), "test": slice(469, 569)}


class CellNuclei(Problem):
    """Breast cancer Wisconsin (diagnostic): 569 images of nuclei, 20 measures, two tasks in raw units.

    | task | loss | metric |
    |---|---|---|
    | malignant (37 % positive) | binary cross-entropy | AUC |
    | worst_area | squared error, pixels^2 | RMSE, pixels |

    Data: Street, Wolberg, Mangasarian, "Nuclear feature extraction for breast tumor diagnosis" (1993), which
    scikit-learn carries (https://archive.ics.uci.edu/dataset/17, CC BY 4.0).

    Args:
        hidden: width of both layers of the trunk.
        learning_rate: of Adam.
        epochs: passes over the 369 training images.
    """

    tasks = (Task("malignant", "AUC", "maximize"), Task("worst_area", "RMSE (pixels)"))

    def __init__(self, hidden: int = 32, learning_rate: float = 3e-3, epochs: int = 40):
        self.hidden, self.learning_rate, self.epochs = hidden, learning_rate, epochs

    def data_hash(self):
        return "cell-nuclei-1"  # not of the arguments, none of which changes the data

    def build_model(self, seed):
        width = self.hidden
        trunk = nn.Sequential(nn.Linear(INPUTS, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        return nn.ModuleDict({"trunk": trunk, "malignant": nn.Linear(width, 1), "worst_area": nn.Linear(width, 1)})

    def shared_layer(self, model):
        return model["trunk"][2]

    def loader(self, split, seed):
        order = Generator().manual_seed(seed)
        return DataLoader(read(split), batch_size=41, shuffle=split == "train", generator=order)

    def losses(self, model, batch):
        x, malignant, area = batch
        features = model["trunk"](x)
        return {
            "malignant": binary_cross_entropy_with_logits(model["malignant"](features)[:, 0], malignant),
            "worst_area": mse_loss(1000 * model["worst_area"](features)[:, 0], area),  # about 1000 pixels
        }

    def evaluate(self, model, split):
        device = next(model.parameters()).device
        x, malignant, area = (column.to(device) for column in read(split).tensors)
        losses, logits = self.losses(model, (x, malignant, area)), model["malignant"](model["trunk"](x))[:, 0]
        auc = binary_auroc(logits, malignant.int())
        return {"malignant": auc.item(), "worst_area": losses["worst_area"].sqrt().item()}

    def build_optimizer(self, model):
        return torch.optim.Adam(model.parameters(), lr=self.learning_rate)


@cache
def read(split):
    """Inputs, standardised by the training rows, and the two targets; the rows shuffled once, by a fixed seed."""
    columns, benign = (tensor(part).float() for part in load_breast_cancer(return_X_y=True))
    order = randperm(len(columns), generator=Generator().manual_seed(0))
    train, rows = columns[order[SPLITS["train"]], :INPUTS], order[SPLITS[split]]
    inputs = (columns[rows, :INPUTS] - train.mean(0)) / train.std(0)
    return TensorDataset(inputs, 1 - benign[rows], columns[rows, WORST_AREA])
