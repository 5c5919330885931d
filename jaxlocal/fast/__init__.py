"""Operations written so that XLA compiles them to fast code on CPUs. Other devices use JAX's own operations."""
