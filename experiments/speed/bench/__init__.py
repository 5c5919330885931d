"""How fast the rules are, against plain JAX, against PyTorch and against the machine: ratios from one run.

`python -m experiments.speed.bench` starts a process for each world (plain JAX, jaxlocal, PyTorch), lets all their
programs take turns, and prints and records a table for each net. `nets` has the nets that are trained, `handwritten`
the programs to compare with, `peers` PyTorch's programs, `gpu` the same on a GPU, `worlds` what runs in a
process, and `overview` a summary of the records.
"""
