"""Exact solvers of the knapsack, one idea a file.

`greedy` takes the largest marginal gains, for values that are concave in N; `streaming` finds their threshold without
a table, at any size; `dynamic` is a dynamic programme for any value. `problem` is what they solve, `even_shares` how
equal prompts share.
"""
