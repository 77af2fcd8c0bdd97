"""A viewer of runs: prompts as a table, one prompt with its rollouts, as local web pages or as a folder of HTML."""
