"""Products of floats with weights of few bits, scaled by groups."""
