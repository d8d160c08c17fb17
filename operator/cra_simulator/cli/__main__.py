"""`python -m cra_simulator.cli`, where the command is not installed."""

import sys

from cra_simulator.cli import main

sys.exit(main())
