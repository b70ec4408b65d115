"""Where ranks lie in a cluster, and what of their traffic leaves a node, a rack, a leaf."""
