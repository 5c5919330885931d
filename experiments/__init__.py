"""The experiments: one file per table, with its settings, the papers' numbers and ours.

`python -m experiments.digits` trains every rule on the embedded digits in minutes, and
`python -m experiments.digits --rules al --seeds 1` one rule in seconds. What was recorded is in `results/`: accuracies
seed by seed, with the command, the commit, the versions and the machine that they come from.
"""
