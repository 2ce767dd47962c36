"""How recordings of any modality become batches."""
