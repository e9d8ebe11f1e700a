"""The steps of an audit: plan, images, fits, scores, attacks, verdicts, and what is kept on disk.

Each step is a function, or work for an engine, that returns what it found.
"""
