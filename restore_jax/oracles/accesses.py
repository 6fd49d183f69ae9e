"""What a model may be asked for. No JAX here: the commands' help reads it."""

ACCESSES = ("logits", "probabilities", "labels")
