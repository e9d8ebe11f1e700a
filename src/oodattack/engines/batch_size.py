"""The batch size: measured, not guessed."""

import time
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from oodattack.core.checks import evaluation_mode
from oodattack.core.gradient import Gradient
from oodattack.engines.memory import out_of_memory

MAX_BATCH_SIZE = 256
MAX_CPU_BATCH_SIZE = 64
# A CPU that runs out of memory raises no error: the process is killed. 16 images of 224x224, or 64 of 112x112.
MAX_CPU_BATCH_PIXELS = 16 * 224 * 224
MAX_MEASURING_SHARE = 0.03  # of the estimated time of the planned work
MIN_MEASURING_SECONDS = 1.0  # always allowed
NEAR_BEST = 0.95  # fraction of the best throughput that suffices: smaller batches need less memory, lose less on Ctrl-C


def rows_that_fit(most: int, input_size: tuple[int, int]) -> int:
    """``most``, or fewer rows if that many images of this size (height, width) may not fit into a CPU's memory.

    >>> rows_that_fit(64, (224, 224)), rows_that_fit(64, (32, 32))
    (16, 64)
    """
    height, width = input_size
    return min(most, max(1, MAX_CPU_BATCH_PIXELS // (height * width)))


def measure_batch_size(f: nn.Module, gradient: Gradient, image: Tensor, *, samples: int, steps: int) -> int:
    """The smallest batch size whose throughput is within 5 % of the best.

    The size is doubled from 1 until two doublings in a row bring no gain, memory or the allowed time runs out, or the
    batch contains all samples.

    Args:
        f: the encoder as the attack uses it.
        gradient: the source of gradients that the attack uses.
        image: (1, 3, H, W) in [0, 1], on the encoder's device.
        samples: number of samples in the run.
        steps: maximum number of gradient evaluations per sample.

    Returns:
        The size, a power of 2; 1 if not even one image fits into memory, which the run will then report.

    >>> from oodattack.core.gradient import Autograd
    >>> measure_batch_size(nn.Flatten(), Autograd(), torch.rand(1, 3, 8, 8), samples=1, steps=10)
    1
    """
    throughput: dict[int, float] = {}
    size, begun = 1, time.perf_counter()
    height, width = image.shape[2:]
    most = rows_that_fit(MAX_CPU_BATCH_SIZE, (height, width)) if image.device.type == "cpu" else MAX_BATCH_SIZE
    while size <= min(samples, most):
        try:
            with evaluation_mode(f):
                seconds = _seconds(f, gradient, image, size)
        except Exception as error:
            if not out_of_memory(error):
                raise
            break
        throughput[size] = size / seconds
        best = max(throughput.values())
        no_gain = size >= 4 and max(throughput[size], throughput[size // 2]) < throughput[size // 4] / NEAR_BEST
        spent, next_one = time.perf_counter() - begun, 3 * 2 * seconds
        if no_gain or spent + next_one > max(MIN_MEASURING_SECONDS, MAX_MEASURING_SHARE * samples * steps / best):
            break
        size *= 2
    return smallest_near_best(throughput) if throughput else 1


def smallest_near_best(throughput: Mapping[int, float]) -> int:
    """The smallest batch size whose throughput (samples per second) is within 5 % of the best.

    >>> smallest_near_best({1: 10.0, 2: 19.5, 4: 20.0, 8: 20.1})
    2
    """
    enough = NEAR_BEST * max(throughput.values())
    return min(size for size, speed in throughput.items() if speed >= enough)


def _seconds(f: nn.Module, gradient: Gradient, image: Tensor, size: int) -> float:
    """Seconds per evaluation of a batch: the better of two measurements, after a warm-up."""
    images = image.repeat(size, 1, 1, 1)
    generators = [torch.Generator() for _ in range(size)]
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        latent, pullback = gradient(f, images, generators)
        pullback(latent).sum().item()  # waits for the device
        times.append(time.perf_counter() - begun)
    return min(times[1:])
