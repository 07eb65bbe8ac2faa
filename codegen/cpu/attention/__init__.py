"""Attention with online softmax: scores of a strip of keys at a time."""
