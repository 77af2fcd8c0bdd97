"""Around training: planner, dry run, report, evaluation, studies, benchmarks and the tiny task.

A command is run by its own name, whichever folder holds it: ``python -m recipe.knapsack.simulate`` runs
``studies/simulate.py``. Code imports by the full name, ``recipe.knapsack.studies.simulate``: a module that is imported
under two names exists twice.
"""

from pathlib import Path

_FOLDERS_OF_COMMANDS = ("report", "planner", "dry_run", "tiny", "studies", "worlds", "benchmarks")
__path__ += [str(Path(__file__).with_name(folder)) for folder in _FOLDERS_OF_COMMANDS]
