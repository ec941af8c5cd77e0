"""`python -m pilotfish`, which is `pilotfish`."""

import sys

from pilotfish.cli.main import main

sys.exit(main())
