"""Generation of text by a decoder that a node holds as a graph: the graph is imported into the body of a Loop and compiled with it."""
