"""The experiments: one file per table or figure, with its settings, the papers' numbers and ours.

`python -m experiments.digits` trains every rule on the embedded digits in minutes. `python -m experiments.al_table2`
and its like are the papers' tables, `--quick` what two cores can train of them, and `python -m experiments.report` is
the page of them all. What was recorded is in `results/`: numbers seed by seed, with the command, the commit, the
versions and the machine that they come from.
"""
