"""The samples of a run."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from oodattack.core.errors import InputError
from oodattack.images import ImageSource, StartSource, evenly, open_starts
from oodattack.settings.attack import AttackSettings


@dataclass(frozen=True)
class Plan:
    """All samples of a run: every chosen image with every start and every eps, image by image.

    Attributes:
        settings: the settings of the run.
        images: the source of x_in.
        starts: the sources of x'_out, one for each start setting.
        chosen: indices of the images to attack.
    """

    settings: AttackSettings
    images: ImageSource
    starts: Sequence[StartSource]
    chosen: Sequence[int]

    def __len__(self) -> int:
        return len(self.chosen) * len(self.starts) * len(self.settings.eps)

    def sample(self, row: int) -> tuple[int, StartSource, float]:
        """Position in `chosen`, start source and eps of a row."""
        rest, eps = divmod(row, len(self.settings.eps))
        image, start = divmod(rest, len(self.starts))
        return image, self.starts[start], self.settings.eps[eps]

    def label(self, source: StartSource) -> str:
        """A source's short name, or the full specification if two sources share a short name."""
        return source.name if [s.name for s in self.starts].count(source.name) == 1 else source.spec

    def first_start(self) -> Tensor:
        """The first start image that can be decoded, uint8 (3, H, W).

        Raises:
            InputError: if no start can be decoded, with the reason for the first.
        """
        failures = []
        for place in range(len(self.chosen)):
            for source in self.starts:
                try:
                    return source.get(place)[1]
                except InputError as error:
                    failures.append(error)
        raise failures[0]

    def read_all(self) -> None:
        """Decode every image once.

        Raises:
            InputError: for the first image that cannot be decoded.
        """
        for place, index in enumerate(self.chosen):
            self.images.read(index)
            for source in self.starts:
                source.get(place)


def make_plan(settings: AttackSettings, images: ImageSource, input_size: tuple[int, int]) -> Plan:
    """Open the starts at the encoder's input size (height, width), and choose the images to attack.

    Raises:
        InputError: if a start cannot be opened.
    """
    starts = [
        open_starts(
            spec,
            size=input_size,
            seed=settings.seed,
            order=settings.start_order,
            data_root=settings.data_root,
            download=settings.download,
        )
        for spec in settings.start
    ]
    return Plan(settings, images, starts, evenly(len(images), settings.limit or len(images)))
