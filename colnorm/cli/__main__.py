"""``python -m colnorm.cli``, where the command is not on the path."""

import sys

from colnorm.cli import main

sys.exit(main())
