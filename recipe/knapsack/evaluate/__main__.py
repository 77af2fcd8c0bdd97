"""The command ``python -m recipe.knapsack.evaluate``."""

import sys

from recipe.knapsack.evaluate.evaluation import main

sys.exit(main())
