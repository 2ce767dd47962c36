"""``vlynx analyse``: the token interface of a run, in tables and pictures."""
