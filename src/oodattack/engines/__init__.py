"""Where work runs: engines, batches that fit into memory, batch sizes, and the machine."""

from oodattack.engines.batch_size import measure_batch_size, rows_that_fit
from oodattack.engines.engine import Chunk, Engine, OnStage, OnStep, Progress, Report, Result, Step, Work, run_one
from oodattack.engines.interrupt import finish_first
from oodattack.engines.local import LocalEngine
from oodattack.engines.machine import environment, exact, machine
from oodattack.engines.memory import compute_images, in_batches, keep_freed_memory
from oodattack.engines.per_process import PerProcess
from oodattack.engines.seeds import sample_seed
from oodattack.engines.stages import logged_stages
from oodattack.engines.worker import open_encoder, open_encoder_in_worker

__all__ = [
    "Chunk",
    "Engine",
    "LocalEngine",
    "OnStage",
    "OnStep",
    "PerProcess",
    "Progress",
    "Report",
    "Result",
    "Step",
    "Work",
    "compute_images",
    "environment",
    "exact",
    "finish_first",
    "in_batches",
    "keep_freed_memory",
    "logged_stages",
    "machine",
    "measure_batch_size",
    "open_encoder",
    "open_encoder_in_worker",
    "rows_that_fit",
    "run_one",
    "sample_seed",
]
