"""What the ranks ask of each other that all must do after the same step: stop, let some go, take others in.

Decided by every rank for itself from reports that all of them share, so all come to the same.
"""

from __future__ import annotations

from cra_trainer.report import StepReport

# Seconds of steps from the first word of leaving to the change: pods that are sent away together hear of it
# one after the other, and shall make one change.
NOTICE = 0.2


class Calls:
    """Heard by one rank, in one group.

    Attributes:
        stop: Whether all leave, because rank 0 was asked to.
        change: Whether another group is due.
        leave: Whether this rank is not in that one.
    """

    def __init__(self) -> None:
        self.stop = self.change = self.leave = False
        self._notice = 0.0

    def hear(self, report: StepReport, rank: int) -> None:
        """A step was reduced.

        Args:
            report: Of that step.
            rank: This one.
        """
        if not report.calls:
            return
        leaving = report.leaving
        self.stop = self.stop or bool(leaving[0])
        self.change = self.change or report.change
        if leaving.any():
            self._notice += float(report.seconds.max())
            if self._notice >= NOTICE:
                self.change, self.leave = True, bool(leaving[rank])
