"""The experiments: the papers' tables and figures, our own experiments, timings and demonstrations.

- `demos`: every rule on one image set, and one run in many processes (`python -m experiments.demos.digits`).
- `papers`: one file for each table or figure (`python -m experiments.papers.al.table2 --quick`).
- `beyond`: experiments that the papers do not have.
- `speed`: timings of the rules, of `fit` and of the pipeline.
- `lab`: what all of them share, and the report (`python -m experiments.lab.report`).
- `records`: what was measured: numbers for each seed, with the command, commit, versions and machine.
"""
