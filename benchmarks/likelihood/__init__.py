"""What the attacks do to the likelihood of a flow, and to the detectors built on it; the tables of `docs/likelihood.md`."""
