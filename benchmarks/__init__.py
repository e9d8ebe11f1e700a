"""What `oodattack` is worth, measured: every figure is a ratio of runs side by side in one process."""
