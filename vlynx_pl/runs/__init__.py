"""What a run is: its folder, checkpoints, provenance and logs."""
