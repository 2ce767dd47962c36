"""``vlynx plan``: memory and time of training, from a configuration alone."""
