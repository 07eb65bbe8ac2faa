"""Loop nests: elementwise chains, moves, reductions, softmax, norms, pooling."""
