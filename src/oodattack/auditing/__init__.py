"""The steps of an audit: plan, images, fits, scores, attacks, verdicts, and storage.

Each step is a function, or work for an engine, that returns its results.
"""
