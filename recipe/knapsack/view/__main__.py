"""The command ``python -m recipe.knapsack.view``."""

import sys

from recipe.knapsack.view.view_command import main

sys.exit(main())
