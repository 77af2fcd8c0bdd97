"""Plans before training: what the knapsack would do on given success rates, and what a step takes."""
