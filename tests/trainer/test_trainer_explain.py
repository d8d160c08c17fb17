"""Row B6: a person can see why a rank has its share, as data, in words and as a picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cra_trainer.allocation.explain import draw, draw_layers
from cra_trainer.allocation.layers import LayerCut
from cra_trainer.allocation.ranks import RankPlanner
from cra_trainer.allocation.strategies import make_strategy


def trained(strategy: str = "attention") -> RankPlanner:
    group = RankPlanner(strategy=make_strategy(strategy), world_size=3, batch_size=150)
    room = np.array([0.5, 0.9, 0.0])
    for _ in range(40):
        rows = group.rows(150)
        seconds = np.asarray(rows * np.array([1e-3, 3e-3, 1e-3]))
        group.observe(rows, seconds, np.full(3, float(group.digest)), room)
    return group


def test_every_share_is_told_with_what_it_follows_from() -> None:
    group = trained()
    told = json.loads(json.dumps(group.explain()))
    assert [one["rows"] for one in told["ranks"]] == group.rows(150).tolist()
    assert sum(one["share"] for one in told["ranks"]) == pytest.approx(1)
    assert [one["samplesPerSecond"] for one in told["ranks"]] == pytest.approx([1000, 333.3, 1000], rel=0.01)
    assert told["ranks"][1]["features"]["log speed"] < 0 < told["ranks"][0]["features"]["log speed"]
    assert told["ranks"][1]["reason"] == "computes 0.33 times what the median rank does"
    assert told["ranks"][2]["reason"].endswith("its memory (0% left) holds no more")
    among, towards = np.array(told["attention"]["among"]), np.array(told["attention"]["towards"])
    assert among.shape == (4, 3, 3)
    assert among.sum(axis=2) == pytest.approx(np.ones((4, 3)), abs=1e-3)
    assert towards.sum(axis=1) == pytest.approx(np.ones(4), abs=1e-3)


def test_a_straggler_is_called_one() -> None:
    group = RankPlanner(strategy=make_strategy("attention"), world_size=4, batch_size=400)
    for _ in range(400):
        rows = group.rows(400)
        seconds = np.asarray(rows * np.array([1e-3, 1e-3, 1e-3, 5e-3]))
        group.observe(rows, seconds, np.full(4, float(group.digest)))
    assert [one["straggler"] for one in group.explain()["ranks"]] == [False, False, False, True]
    assert "is slow for good" in group.explain()["ranks"][3]["reason"]


def test_before_anything_is_measured_nothing_is_made_up() -> None:
    told = RankPlanner(strategy=make_strategy("uniform"), world_size=2, batch_size=8).explain()
    assert "attention" not in told
    assert {one["samplesPerSecond"] for one in told["ranks"]} == {None}
    assert all("not all ranks have been measured" in one["reason"] for one in told["ranks"])
    with pytest.raises(ValueError, match="nothing to draw"):
        draw(told, "never.png")


def test_the_picture_is_an_image_with_something_in_it(tmp_path: Path) -> None:
    draw(trained().explain(), tmp_path / "ranks.png")
    assert (tmp_path / "ranks.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert (tmp_path / "ranks.png").stat().st_size > 10_000


def test_the_layers_tell_the_attention_behind_each_cut_and_have_a_picture(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))
    layers, optimizer = LayerCut(model, 0.4), torch.optim.SGD(model.parameters(), lr=0.01)
    with pytest.raises(ValueError, match="nothing was decided"):
        draw_layers({"layers": layers.explain()}, "never.png")
    for done in range(1, 101):
        model(torch.randn(4, 8)).square().mean().backward()
        layers.follow(optimizer, done / 100)
        optimizer.step()
        optimizer.zero_grad()
    told = json.loads(json.dumps(layers.explain()))
    assert told["blocks"] == ["0", "1", "2", "3"]
    assert sum(told["cost"]) == pytest.approx(1)
    cut = 0
    for one in told["decisions"]:
        # What is frozen when a decision is made gets none, and the others share all of it.
        assert one["attention"][:cut] == [0.0] * cut
        assert sum(one["attention"]) == pytest.approx(1, abs=1e-3)
        cut = one["cut"]
    assert cut == layers.cut > 0
    draw_layers({"layers": told}, tmp_path / "layers.png")
    assert (tmp_path / "layers.png").stat().st_size > 10_000
