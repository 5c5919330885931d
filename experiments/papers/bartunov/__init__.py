"""Bartunov et al. 2018, target propagation, feedback alignment and backpropagation: its tables and figures."""
