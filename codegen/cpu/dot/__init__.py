"""Products and convolutions of 8- and 16-bit elements by dot instructions."""
