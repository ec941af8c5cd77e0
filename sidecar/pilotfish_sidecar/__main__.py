"""`python -m pilotfish_sidecar`."""

import sys

from pilotfish_sidecar.main import main

sys.exit(main())
