"""Times as Kubernetes writes them."""

import datetime as dt


def now() -> str:
    """The time in seconds, for statuses and events."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def now_precise() -> str:
    """The time in microseconds, for leases and logs; such strings compare like the times."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse(time: str) -> dt.datetime:
    """The reverse of both."""
    return dt.datetime.fromisoformat(time)
