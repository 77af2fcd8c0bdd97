"""Studies: the simulation without a language model, and comparisons of methods, engines and estimators."""
