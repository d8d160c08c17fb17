"""Small phrases for messages."""

from __future__ import annotations

LONGEST = 4096
"""Longest message that the API takes."""


def clip(text: str, limit: int = LONGEST) -> str:
    """The text, cut where it is too long for its field."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def count(number: int, noun: str) -> str:
    """`1 pod`, `2 pods`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
