"""Profiles of one's own: what is enough, and what a bad one is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cra_simulator.cluster import Cluster, NodePool
from cra_simulator.errors import DataError
from cra_simulator.mixed import best_tables

CLUSTER = Cluster((NodePool(kind="a100", nodes=2, gpus=2),))
PLACEMENTS = "placement,local_bsz,step_time,sync_time\n1,16,1.0,0\n2,16,1.25,0.25\n22,16,2.0,1.0\n"
VALIDATION = "progress,iteration,grad_sqr,grad_var\n100,100,1,0\n300,300,1,0\n"


def profile(folder: Path, name: str = "mine", **files: str) -> Path:
    """A profile with little in it; files are named without their ending."""
    folder = folder / name
    folder.mkdir(parents=True)
    written = {"placements": PLACEMENTS, "validation-16": VALIDATION, "validation-64": VALIDATION} | files
    for file, text in written.items():
        (folder / f"{file}.csv").write_text(text)
    (folder / "application.json").write_text(json.dumps({"epochs": 2, "node_gpus": 2}))
    return folder


def test_measurements_of_every_size_on_offer_are_enough(tmp_path: Path) -> None:
    profile(tmp_path)
    tables = best_tables(["mine"], tmp_path, CLUSTER)
    assert tables.sizes.gpus.tolist() == [0, 1, 2, 4]
    # Without noise of the gradient a larger batch is worth nothing: steps alone count.
    assert tables.tables["mine"].rate[0] == pytest.approx([0, 1, 0.8, 0.5])
    assert tables.tables["mine"].progress.tolist() == [100, 300]


def test_sizes_that_nobody_measured_are_not_on_offer(tmp_path: Path) -> None:
    profile(tmp_path, placements=PLACEMENTS.rsplit("22", 1)[0])
    rate = best_tables(["mine"], tmp_path, CLUSTER).tables["mine"].rate
    assert (rate[:, -1] == 0).all()
    assert (rate[:, 1:-1] > 0).all()


def test_a_type_of_gpu_may_have_measurements_of_its_own(tmp_path: Path) -> None:
    profile(tmp_path)
    profile(tmp_path / "h100", placements=PLACEMENTS.replace("1,16,1.0,0", "1,16,0.25,0"))
    mixed = Cluster((*CLUSTER.pools, NodePool(kind="h100", nodes=1, gpus=1)))
    with pytest.raises(DataError, match="nothing is known of GPUs of type 'a100'"):
        best_tables(["mine"], tmp_path, mixed)
    profile(tmp_path / "a100")
    tables = best_tables(["mine"], tmp_path, mixed)
    assert tables.tables["mine"].rate[0] == pytest.approx([0, 1, 0.8, 0.5, 4])


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "placements",
            "placement,step_time\n1,1\n",
            "placements.csv, line 1: column local_bsz, sync_time is",
        ),
        (
            "placements",
            PLACEMENTS.replace("1.25", "fast"),
            "placements.csv, line 3, column step_time: 'fast'",
        ),
        ("placements", PLACEMENTS.replace("2.0,1.0", "2.0"), "line 4, column sync_time: '' is no number"),
        ("placements", PLACEMENTS.split("\n")[0], "placements.csv, line 2: there are no measurements"),
        ("validation-x", VALIDATION, "validation-x.csv: the name is to be"),
        ("validation-16", VALIDATION.rsplit("300", 2)[0], "validation-16.csv: 1 epochs are too few"),
        (
            "validation-16",
            VALIDATION.replace("300,300,1", "300,300,nan"),
            "line 3, column grad_sqr: 'nan' must",
        ),
    ],
)
def test_a_bad_file_is_told_where_it_is_bad(tmp_path: Path, file: str, text: str, message: str) -> None:
    profile(tmp_path, **{file: text})
    with pytest.raises(DataError, match=message):
        best_tables(["mine"], tmp_path, CLUSTER)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "application.json, line 1, column 2"),
        ('{"epochs": 2}', "application.json: node_gpus is missing"),
        ('{"epochs": 0, "node_gpus": 4}', "epochs must be a whole number of at least 1, not 0"),
        ('{"epoch": 2}', "must be an object with epochs, node_gpus"),
    ],
)
def test_an_application_says_what_was_not_measured(tmp_path: Path, content: str, message: str) -> None:
    (profile(tmp_path) / "application.json").write_text(content)
    with pytest.raises(DataError, match=message):
        best_tables(["mine"], tmp_path, CLUSTER)


def test_smaller_nodes_do_not_speak_for_larger_ones(tmp_path: Path) -> None:
    profile(tmp_path)
    with pytest.raises(DataError, match="mine was measured on nodes of 2 GPUs, not of 8"):
        best_tables(["mine"], tmp_path, Cluster((NodePool(kind="a100", nodes=1, gpus=8),)))
    with pytest.raises(DataError, match="has no profile of 'yours'"):
        best_tables(["yours"], tmp_path, CLUSTER)


def test_a_job_may_be_limited_to_one_gpu(tmp_path: Path) -> None:
    (profile(tmp_path) / "application.json").write_text('{"epochs": 2, "node_gpus": 2, "largest_gpus": 1}')
    rate = best_tables(["mine"], tmp_path, CLUSTER).tables["mine"].rate
    assert np.flatnonzero(rate[0]).tolist() == [1]
