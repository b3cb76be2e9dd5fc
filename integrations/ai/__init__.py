"""Import paths for inference workloads."""
