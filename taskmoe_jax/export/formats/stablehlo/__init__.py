"""StableHLO: programs that plain JAX runs."""
