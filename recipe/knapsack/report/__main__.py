"""The command ``python -m recipe.knapsack.report``."""

import sys

from recipe.knapsack.report.report_command import main

sys.exit(main())
