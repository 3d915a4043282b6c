"""StableHLO: encoding, logits and greedy generation as programs that jax alone runs, without nash_jax."""
