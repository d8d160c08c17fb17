"""The trainings that benchmarks run on both sides."""
