"""What XLA's CPU compiler needs to be fast; on other devices JAX's own is used."""
