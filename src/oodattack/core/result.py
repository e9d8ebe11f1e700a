"""What an attack returns."""

from dataclasses import dataclass

from torch import Tensor

from oodattack.core.notebook import html_table

MAX_ROWS = 10  # samples that a notebook shows


@dataclass(frozen=True, eq=False)
class AttackResult:
    """What the attack found, per sample.

    ``image`` is the final image: on the 8-bit grid with ``pixels=256``, else in floating point. Its figures are
    measured again on that image. The ``float_`` fields are those before rounding, as measured during the attack.
    """

    image: Tensor  # (B, 3, H, W) in [0, 1], inside the ball
    latent: Tensor  # (B, K) or (B,): f(image)
    mape: Tensor  # (B,): a fraction; NaN without a target and where undefined (see `notes`)
    distance: Tensor  # (B,): ‖image - start‖ in the ball's norm
    float_image: Tensor  # (B, 3, H, W)
    float_mape: Tensor  # (B,)
    float_distance: Tensor  # (B,)
    part_mape: Tensor  # (B, P): the MAPE of each part of the latent
    gradient_evaluations: Tensor  # (B,) int64: forward + backward passes, summed over all tries
    forward_evaluations: Tensor  # (B,) int64: further forward passes; one costs about a third of the above
    restart: Tensor  # (B,) int64: the try that won; 0 is the first
    history: Tensor  # (B, steps + 1): MAPE (or score) after n steps of the winning try, from f or its twin; then NaN
    start_latent: Tensor  # (B, K) or (B,): f(start)
    start_mape: Tensor  # (B,): before the attack
    start_distance: Tensor  # (B,): 0, because the start is the centre of the ball
    notes: tuple[str, ...]  # (B,): why a MAPE is undefined or the attack stopped, else ""

    def __repr__(self) -> str:
        return f"<AttackResult of {self._summary()}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the figures of the first samples."""
        columns = {
            "MAPE before": self.start_mape,
            "MAPE": self.mape,
            "distance": self.distance,
            "gradient evaluations": self.gradient_evaluations,
            "try": self.restart,
        }
        values = zip(*(column[:MAX_ROWS].tolist() for column in columns.values()), self.notes, strict=False)
        rows = [(number, *(f"{value:.4g}" for value in row[:-1]), row[-1]) for number, row in enumerate(values)]
        note = f"and {len(self.notes) - MAX_ROWS} more" if len(self.notes) > MAX_ROWS else ""
        return html_table(f"AttackResult of {self._summary()}", ["sample", *columns, "note"], rows, note)

    def _summary(self) -> str:
        count, _, height, width = self.image.shape
        images = f"{count} image{'s' * (count != 1)} of {height}x{width}"
        distance = f"largest distance {float(self.distance.max()):.4g}"
        if bool(self.mape.isnan().all()):
            return f"{images}: no MAPE, {distance}"
        before, after = (float(figure.nanmedian()) for figure in (self.start_mape, self.mape))
        return f"{images}: median MAPE {before:.3g} before, {after:.3g} after, {distance}"
