"""The instances of the one idea: latent, informed and direct attacks on detectors."""
