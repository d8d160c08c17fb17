"""The moving parts around the decisions: queue, workers, state, health and metrics."""
