"""What accompanies a run."""
