"""The rules of a job's life: why pods end, what is tried again, what the status says."""
