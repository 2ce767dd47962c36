"""V-LynX: a new sense for a frozen Video LLM, by aligning it to the model's own token interface."""
