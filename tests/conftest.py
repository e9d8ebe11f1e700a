"""Settings of the test suite."""

import os

# One thread a process, as the tests themselves run in parallel; before anything reads it, and for every subprocess.
THREADS = int(os.environ.setdefault("OMP_NUM_THREADS", "1"))

import torch  # noqa: E402 -- after the line above
from hypothesis import settings  # noqa: E402

torch.set_num_threads(THREADS)

# The same examples every time, and no clock: a slow machine is not a failure. Nothing is written to disk.
settings.register_profile("oodattack", derandomize=True, deadline=None, database=None)
settings.load_profile("oodattack")
