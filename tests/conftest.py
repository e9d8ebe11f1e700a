"""Settings of the test suite."""

from hypothesis import settings

# The same examples every time, and no clock: a slow machine is not a failure. Nothing is written to disk.
settings.register_profile("oodattack", derandomize=True, deadline=None, database=None)
settings.load_profile("oodattack")
