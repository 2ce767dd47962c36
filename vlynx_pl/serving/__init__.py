"""A server that answers questions about clips with tuned runs, and its page."""
