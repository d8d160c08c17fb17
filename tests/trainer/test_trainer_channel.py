"""The membership channel, with both its ends in one process."""

from __future__ import annotations

import threading

import pytest

from cra_trainer.elastic import coordinator, member
from cra_trainer.elastic.roster import NOTHING, Hello


def test_a_script_may_build_its_model_for_longer_than_a_silence_lasts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (coordinator, member):
        monkeypatch.setattr(module, "BEAT_SECONDS", 0.05)
        monkeypatch.setattr(module, "SILENCE_SECONDS", 0.5)
    leader = coordinator.Coordinator("127.0.0.1")
    lost = threading.Event()
    rank = member.Member(
        ("127.0.0.1", leader.port), on_plan=lambda: None, on_abort=lost.set, on_exclusion=lambda _: lost.set()
    )
    assert not lost.wait(1.0)
    plan = rank.hello(Hello(uid="one", place=0, cohort=1, joining=1, standing=NOTHING))
    assert [seat.uid for seat in plan.seats] == ["one"]
