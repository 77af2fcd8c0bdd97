"""Knapsack RL on verl 0.9: a plug-in that leaves verl unpatched. `docs/verl09.md` tells how to use it.

`startup` checks a configuration before Ray starts, `plugin` is imported by verl in every process of the run, and
`trainer` holds the trainers that the configuration names.
"""

from knapsack_rl.presets import register_preset_resolver

# config/exploration/knapsack.yaml has such keys, and whoever reads it, in any process, imports this package.
register_preset_resolver()
