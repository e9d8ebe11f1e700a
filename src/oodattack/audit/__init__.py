"""Detectors before and after the attack: images, scores, measures, verdicts, what is kept on disk."""
