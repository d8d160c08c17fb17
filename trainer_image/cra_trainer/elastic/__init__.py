"""Membership: which processes train together, and how they reach each other."""
