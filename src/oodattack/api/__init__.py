"""What Python calls: the attack with a progress bar, and the audit of live models, images and detectors."""
