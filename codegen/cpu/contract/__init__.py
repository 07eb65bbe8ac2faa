"""Products and convolutions of floats by multiply-add."""
