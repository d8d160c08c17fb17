"""The control loop over running jobs: what is measured about them."""
