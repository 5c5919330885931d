"""How fast the rules are, against plain JAX, against PyTorch and against the machine: ratios from one run.

`python -m experiments.speed.bench` starts a process for each world (plain JAX, jaxlocal, PyTorch), lets all their
programs take turns, and prints and records a table for each net. Of the modules, `nets` says what is trained,
`handwritten` holds the yardsticks, `peers` PyTorch's programs, `limits` what a machine could do at best, and
`worker` is a process.
"""
