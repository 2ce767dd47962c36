"""Reading files: every reader gives tensors, or raises BadSample with the file and the remedy."""
