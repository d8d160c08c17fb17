"""The published schedulers, one file each, to be compared with."""
