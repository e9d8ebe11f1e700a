"""What the attacks do to the likelihood of a flow and to detectors built on it: tables of `docs/likelihood.md`."""
