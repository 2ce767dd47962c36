"""How recordings become batches, whatever their modality: one subject per file."""
