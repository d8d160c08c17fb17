"""Learning policies: a compiled episode, a gymnasium environment and one file for each learner."""
