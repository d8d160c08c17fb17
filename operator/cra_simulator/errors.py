"""What can go wrong while a simulation runs."""


class SimulationError(Exception):
    """The simulation cannot go on; the message says which job or decision is at fault."""
