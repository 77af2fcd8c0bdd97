"""The tiny task: a model, data and a reward that train on a CPU in minutes, and the quickstart on them."""
