"""The unit of work of a run: one shard, from reading its images to writing its rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from oodattack.engines import PerProcess, Report, Step, exact, in_batches, machine
from oodattack.pipelines.batch import attack_rows
from oodattack.pipelines.inputs import Inputs
from oodattack.runs import Run, ShardRecord


@dataclass(frozen=True)
class AttackShard:
    """Attacks the rows of one shard and writes it.

    Attributes:
        run: the run that the shards belong to.
        inputs: the encoder and the plan, opened once per process.
    """

    run: Run
    inputs: PerProcess[Inputs]

    def __call__(self, number: int, report: Report) -> int:
        """Compute a shard.

        Args:
            number: number of the shard.
            report: called after every step of the attack.

        Returns:
            Number of rows in the shard, including those whose images could not be used.

        Raises:
            InputError: if memory is too small for one image, or the shard cannot be written.
        """
        inputs, header, shard_rows = self.inputs.get(), self.run.header, self.run.shard_rows(number)
        settings = inputs.plan.settings
        fast = inputs.fast(half=header["half"], rough=header["rough"])

        def attack_batch(rows: range) -> tuple[list[dict[str, Any]], Mapping[str, str]]:
            steps = count(1)

            def on_step() -> None:
                share = next(steps) / (settings.steps * settings.restarts)
                report(Step(rows.start - shard_rows.start, len(rows), share))

            return attack_rows(inputs.plan, inputs.encoder, fast, inputs.gradient, rows, on_step)

        table: list[dict[str, Any]] = []
        skipped: dict[str, str] = {}
        batch_sizes: list[int] = []
        with exact():
            for rows, (batch_table, batch_skipped) in in_batches(shard_rows, header["batch_size"], attack_batch):
                table += batch_table
                skipped |= batch_skipped
                batch_sizes.append(len(rows))
        self.run.write_shard(number, table, ShardRecord(skipped, batch_sizes, machine(inputs.device)))
        return len(shard_rows)
