"""Elementwise functions in vectors: exp, sin, pow … and the conversions of small floats, written once over lanes."""
