"""End-to-end machinery: the clusters that scenarios, demo and benchmarks run on."""
