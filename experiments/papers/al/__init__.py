"""Kao and Chen 2021, Associated Learning: its tables and figures."""
