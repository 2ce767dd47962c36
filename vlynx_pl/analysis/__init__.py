"""What the token interface looks like, and whether a modality lands on it.

Measurements and figures only: nothing here decides, trains or reads files of data.
"""
