"""Hydra files of the plug-in, found by ``hydra.searchpath=[pkg://knapsack_verl09.config]``."""
