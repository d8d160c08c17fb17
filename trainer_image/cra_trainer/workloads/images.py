"""Images for the workloads that classify them: scikit-learn's digits, or a folder of one's own."""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset, Subset, TensorDataset

import cra_trainer
from cra_trainer.data import MapDataset

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".webp"}


def digits(size: int) -> tuple[TensorDataset, TensorDataset]:
    """Training and test set of 1437 and 360 images [1, size, size] in [0, 1], which are 8x8 pixels enlarged;
    every fifth image is for the test.
    """
    # The file itself: to import scikit-learn takes a second, which would be a third of a rank's start.
    path = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    data = np.loadtxt(str(path), delimiter=",", dtype=np.int64)
    images = torch.tensor(data[:, :-1], dtype=torch.float32).view(-1, 1, 8, 8) / 16
    images = functional.interpolate(images, size=size, mode="bilinear", align_corners=False)
    labels = torch.tensor(data[:, -1])
    test = torch.arange(len(labels)) % 5 == 0
    return TensorDataset(images[~test], labels[~test]), TensorDataset(images[test], labels[test])


class ImageFolder(Dataset[tuple[Tensor, Tensor]]):
    """The image files of a folder with a subfolder for each class, read when they are asked for, in grey.

    Args:
        folder: The folder.
        size: Width and height that every image is brought to.

    Raises:
        ValueError: It has no subfolder with an image.

    Attributes:
        classes: The subfolders' names, sorted.
        files: Each image's path and class.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self._size = size
        self.classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
        self.files = [
            (path, label)
            for label, name in enumerate(self.classes)
            for path in sorted((folder / name).iterdir())
            if path.suffix.lower() in SUFFIXES
        ]
        if not self.files:
            raise ValueError(f"folder: expected subfolders with images in {folder}, one for each class")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        path, label = self.files[index]
        with Image.open(path) as image:
            grey = image.convert("L").resize((self._size, self._size))
        return torch.from_numpy(np.asarray(grey, dtype=np.float32) / 255)[None], torch.tensor(label)


def load(folder: str | None, size: int) -> tuple[MapDataset, MapDataset, list[str]]:
    """Training set, test set and names of the classes: of a folder, or else the digits.

    A folder has the parts ``train`` and ``test``, or only the classes' subfolders: then every fifth image is
    for the test.
    """
    if folder is None:
        return *digits(size), [str(i) for i in range(10)]
    place = Path(folder)
    if (place / "train").is_dir() and (place / "test").is_dir():
        train, test = ImageFolder(place / "train", size), ImageFolder(place / "test", size)
        if train.classes != test.classes:
            raise ValueError(f"folder: {place}/train has classes {train.classes}, test has {test.classes}")
        return train, test, train.classes
    every = ImageFolder(place, size)
    rest = [i for i in range(len(every)) if i % 5]
    return Subset(every, rest), Subset(every, range(0, len(every), 5)), every.classes


def evaluate(session: cra_trainer.Session, model: nn.Module, test: MapDataset, classes: list[str]) -> None:
    """Report accuracy, loss, and precision, recall and F1 of each class over a test set."""
    model.eval()
    scores, loss_sum = cra_trainer.Classification(classes), 0.0
    with torch.no_grad():
        for images, labels in session.shard(test):
            logits = model(images)
            scores.add(logits, labels)
            loss_sum += float(functional.cross_entropy(logits, labels, reduction="sum"))
    session.report(scores, test_loss=(loss_sum, scores.accuracy[1]))
