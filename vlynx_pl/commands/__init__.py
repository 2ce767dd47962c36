"""Every ``vlynx`` command; the only package that knows all the others."""
