"""Training neural networks with local error signals (Nøkland and Eidnes, 2019)."""
