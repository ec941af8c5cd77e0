"""`python -m pilotfish_node`."""

import sys

from pilotfish_node.main import main

sys.exit(main())
