"""A trace-driven cluster: the operator's policies and the published schedulers, on the same jobs."""
