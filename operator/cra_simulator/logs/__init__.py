"""Logs of real clusters, made into workloads: which jobs came when, and how much they needed."""
