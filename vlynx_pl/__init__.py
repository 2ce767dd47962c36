"""V-LynX: new modalities for a frozen Video LLM through its own token interface."""
