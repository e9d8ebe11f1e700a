"""Run the attacks of an audit, shard by shard."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from oodattack.attacks import Ball, Followed, Found, Samples, follow
from oodattack.auditing.bench import Bench
from oodattack.auditing.ensemble import open_audited_bench
from oodattack.auditing.errors import one_line
from oodattack.auditing.inputs import TARGETS
from oodattack.auditing.kinds import KINDS, BatchAttack, Context
from oodattack.auditing.plan import Attack, Shard, shard_rows
from oodattack.auditing.store import Audit, Scores
from oodattack.core.errors import WriteError
from oodattack.core.pixels import dequantize
from oodattack.engines import Engine, OnStage, PerProcess, Report, Step, exact, in_batches, machine, sample_seed
from oodattack.settings.ball import NORMS

TRIED = 4  # images from each set at which the gradient of a score is tried


@dataclass(frozen=True)
class AttackShard:
    """Work: one attack on the rows of one shard, which is written when it is finished. Returns why it failed, or None.

    Attributes:
        bench: a bench with fitted detectors.
        audit: the audit to which shards are written.
        x_in: scores (N,) of x_in, by detector.
        batch_size: maximum number of samples attacked at once.
    """

    bench: PerProcess[Bench]
    audit: Audit
    x_in: Mapping[str, Tensor]
    batch_size: int

    def __call__(self, shard: Shard, report: Report) -> str | None:
        """See `oodattack.engines.Work`."""
        bench = self.bench.get()
        try:
            function = KINDS[shard.attack.kind].on(shard.attack.target, self._context(bench))
            with exact():
                parts = list(
                    in_batches(
                        shard.rows, self.batch_size, lambda rows: self._attack(bench, shard, rows, function, report)
                    )
                )
            record = {"batch_sizes": [len(rows) for rows, _ in parts], "machine": machine(bench.subject.device)}
            self.audit.write_shard(shard, [found for _, found in parts], record)
        except WriteError:
            raise
        except Exception as error:  # noqa: BLE001 -- the failure of one detector must not affect the others
            return one_line(error)
        return None

    def _attack(self, bench: Bench, shard: Shard, rows: range, function: BatchAttack, report: Report) -> Found:
        report(Step(rows.start - shard.rows.start, len(rows), 0.0))
        x_in, device = bench.inputs.targets, bench.subject.device
        starts = bench.inputs.starts[shard.attack.starts]
        seeds = [sample_seed(bench.settings.seed, x_in.names[row], starts.names[row]) for row in rows]
        samples = Samples(x_in.rows(rows, device), starts.rows(rows, device), seeds)
        ball = Ball(shard.attack.eps, NORMS[bench.settings.norm], shard.attack.steps)
        return function(samples, ball, self._initial(shard, rows, device))

    def _initial(self, shard: Shard, rows: range, device: torch.device) -> Tensor | None:
        """What the initial attack found for these rows; its shard has the same rows as this one."""
        if shard.attack.initial is None:
            return None
        images = self.audit.read_shard(Shard(shard.attack.initial, shard.rows))
        first = rows.start - shard.rows.start
        return dequantize(images[first : first + len(rows)]).to(device)

    def _context(self, bench: Bench) -> Context:
        follow = partial(follow_score, bench)
        return Context(
            bench.subject, bench.detectors, lambda name: follow(name, self.x_in[name]), bench.settings.restarts
        )


def follow_score(bench: Bench, name: str, x_in: Tensor) -> Followed:
    """Choose how to follow the score of a detector (`oodattack.attacks.follow`).

    Args:
        bench: a bench with fitted detectors.
        name: name of the detector.
        x_in: its scores of x_in, (N,).

    Raises:
        InputError: if the score cannot be followed.
    """
    if name not in bench.followed:
        sets = (bench.inputs.targets, *bench.inputs.sets.values())
        tried = torch.cat([next(images.batches(TRIED, bench.subject.device)) for images in sets])
        bench.followed[name] = follow(bench.detectors[name], tried, x_in)
    return bench.followed[name]


def follow_scores(bench: Bench, scores: Scores) -> tuple[dict[str, str], dict[str, str]]:
    """In words, by detector: how its score is followed; and, for the other detectors, why it cannot be."""
    followed, reasons = {}, {}
    for name in bench.detectors:
        try:
            followed[name] = follow_score(bench, name, scores[name, TARGETS]).how
        except Exception as error:  # noqa: BLE001 -- the failure of one detector must not affect the others
            reasons[name] = one_line(error)
    return followed, reasons


def run_attacks(
    bench: Bench,
    audit: Audit,
    attacks: Sequence[Attack],
    scores: Scores,
    batch_size: int,
    engine: Engine,
    on_stage: OnStage,
) -> dict[str, str]:
    """Run every attack whose shards are not in the audit yet.

    An attack that fails on one shard is abandoned; the others are not affected.

    Args:
        bench: a bench with fitted detectors.
        audit: the audit to which shards are written.
        attacks: all attacks of the audit.
        scores: by detector and set; those of x_in are used.
        batch_size: number of rows of a shard, and maximum number of samples attacked at once.
        engine: runs the work.
        on_stage: called with the progress.

    Returns:
        The reason for each attack that failed, by key.

    Raises:
        WriteError: if a shard cannot be written.
    """
    count = len(bench.inputs.targets.names)
    finished, failures = audit.shards(), dict[str, str]()
    x_in = {name: scores[name, TARGETS] for name in bench.detectors}
    here = PerProcess(partial(open_audited_bench, bench.settings, audit, tuple(bench.detectors)), here=bench)
    work = AttackShard(here, audit, x_in, batch_size)

    def missing(attacks: Sequence[Attack]) -> Iterator[Shard]:
        for attack in attacks:
            for rows in shard_rows(count, batch_size):
                if attack.key not in failures and (attack.key, rows) not in finished:
                    yield Shard(attack, rows)
            on_stage(_label(attack), count, count)

    def on_step(shard: Shard, step: Step) -> None:
        on_stage(_label(shard.attack), shard.rows.start + step.rows_done, count)

    # Attacks that start from the images of another attack run after it.
    for depth in sorted({attack.depth for attack in attacks}):
        wave = [attack for attack in attacks if attack.depth == depth and not _lacks(attack, failures)]
        for shard, failure in engine.map(work, missing(wave), on_step=on_step):
            if failure is not None:
                failures.setdefault(shard.attack.key, failure)
    return failures


def _lacks(attack: Attack, failures: dict[str, str]) -> bool:
    """Whether an attack that it builds on failed; it then fails for the same reason."""
    if attack.initial is not None and attack.initial.key in failures:
        failures[attack.key] = failures[attack.initial.key]
        return True
    return False


def _label(attack: Attack) -> str:
    return f"attacking: {attack.kind} {attack.target} from {attack.starts}, eps {attack.eps:g}, {attack.steps} steps"
