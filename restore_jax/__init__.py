"""REStore in JAX."""
