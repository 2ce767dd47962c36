"""``vlynx export``: a tuned run as a model for transformers alone."""
