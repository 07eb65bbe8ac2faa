"""Products of float32 on tile registers, each number as the sum of three bfloat16."""
