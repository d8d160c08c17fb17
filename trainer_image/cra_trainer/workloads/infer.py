"""Inference: what a trained digits-cnn says of images, and how right it is.

    CRA_CHECKPOINT_DIR=/checkpoints python -m cra_trainer.run -m cra_trainer.workloads.infer

The weights are those of the newest good checkpoint of the job's place, so give the claim or URL of the job
that trained them; it is only read. All ranks share the images by their speed.

Parameters (``spec.workload.parameters``): ``width``, as it was trained (default 32); ``folder``, images of
your own in one subfolder for each class; ``output``, a folder for the answers, a CSV file for each rank.
"""

from __future__ import annotations

import csv
import time
from pathlib import Path

import torch

import cra_trainer
from cra_trainer.workloads import digits_cnn, images


def main() -> None:
    session = cra_trainer.init()
    config = session.config
    train, test, classes = images.load(config.parameters.get("folder"), digits_cnn.SIZE)
    model, _ = session.prepare(digits_cnn.make_model(config.number("width", 32), len(classes)))
    model.eval()

    scores, started = cra_trainer.Classification(classes), time.perf_counter()
    answers: list[tuple[int, int, float]] = []
    with torch.no_grad():
        for part in (train, test):
            for x, labels in session.shard(part):
                probability, answer = model(x).softmax(dim=1).max(dim=1)
                scores.add(answer, labels)
                answers += zip(labels.tolist(), answer.tolist(), probability.tolist(), strict=True)
    seconds = time.perf_counter() - started

    if "output" in config.parameters:
        folder = Path(config.parameters["output"])
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"answers-{session.rank}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(("class", "answer", "probability"))
            table.writerows((classes[i], classes[j], f"{p:.4f}") for i, j, p in answers)
    session.finish(scores, milliseconds_per_image=(1000 * seconds, len(answers)))


if __name__ == "__main__":
    main()
