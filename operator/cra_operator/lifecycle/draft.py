"""A status in the making: the old one, the changes, and what must be done about them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, get_args

from cra_operator.actions import Action, Plan, RecordEvent
from cra_operator.api import Condition, ConditionType, Job, JobStatus, RunStatus
from cra_operator.lifecycle import display
from cra_operator.lifecycle.words import clip
from cra_operator.sizing import Size

_ORDER: tuple[ConditionType, ...] = get_args(ConditionType)


class Draft:
    """Collects one reconciliation's changes; `plan` closes it."""

    def __init__(self, job: Job, now: datetime) -> None:
        self.job = job
        self.now = now
        self.holding: Size | None = None
        # The counters begin at 0: a column that is empty looks like one that is not known.
        self._fields: dict[str, Any] = {
            "observed_generation": job.metadata.generation,
            "rescales": job.status.rescales or 0,
            "restarts": job.status.restarts or 0,
            "failures": job.status.failures or 0,
        }
        self._conditions = {c.type: c for c in job.status.conditions}
        self._actions: list[Action] = []
        self._look_again: datetime | None = None

    def set(self, **fields: Any) -> None:
        """Change fields of the status, by their Python names."""
        if "message" in fields:
            fields["message"] = clip(fields["message"])
        self._fields.update(fields)

    def set_run(self, **fields: Any) -> None:
        """Change what the status says of the run."""
        run: RunStatus = self.get("run") or RunStatus()
        self.set(run=run.model_copy(update=fields))

    def get(self, name: str) -> Any:
        """A field as it will be."""
        return self._fields.get(name, getattr(self.job.status, name))

    def condition(self, kind: ConditionType, holds: bool, reason: str, message: str = "") -> None:
        """Set a condition; its transition time moves only when it flips."""
        old = self._conditions.get(kind)
        status: Literal["True", "False"] = "True" if holds else "False"
        since = old.last_transition_time if old is not None and old.status == status else self.now
        self._conditions[kind] = Condition(
            type=kind,
            status=status,
            observed_generation=self.job.metadata.generation,
            last_transition_time=since,
            reason=reason,
            message=clip(message),
        )

    def was(self, kind: ConditionType, reason: str) -> bool:
        """Whether the old status already had this condition with this reason."""
        old = self.job.status.condition(kind)
        return old is not None and old.reason == reason

    def do(self, *actions: Action) -> None:
        """Ask for actions, in this order."""
        self._actions.extend(actions)

    def tell(self, reason: str, message: str, *, warning: bool = False) -> None:
        """Record an event."""
        self.do(RecordEvent(type="Warning" if warning else "Normal", reason=reason, message=message))

    def look_again(self, at: datetime) -> None:
        """Be called again at this time at the latest."""
        self._look_again = at if self._look_again is None else min(at, self._look_again)

    def plan(self) -> Plan:
        """Close the draft."""
        conditions = [self._conditions[kind] for kind in _ORDER if kind in self._conditions]
        status: JobStatus = self.job.status.model_copy(update={**self._fields, "conditions": conditions})
        status = status.model_copy(update={"display": display.columns(self.job.spec, status)})
        return Plan(
            status=status, actions=tuple(self._actions), holding=self.holding, look_again=self._look_again
        )
