"""What can go wrong in the simulator."""


class SimulationError(Exception):
    """The simulation cannot go on; the message says which job or decision is at fault."""


class DataError(ValueError):
    """A file or an argument cannot be used; the message has file, line, column and the fix."""
