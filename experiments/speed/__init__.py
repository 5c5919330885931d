"""How fast the rules, `fit` and the pipeline are on this machine."""
