"""Tools around Knapsack RL: budget planner, simulation, benchmarks, reports and the tiny task."""
