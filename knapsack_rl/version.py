"""The version of Knapsack RL; set-up, runs and reports take it from here."""

__version__ = "0.2.0"
