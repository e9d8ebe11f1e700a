"""Compare every score and every attacked image of two audits, and report the differences.

::

    python -m benchmarks.same_audit OLD NEW

The exit code is 0 if both directories contain the same scores and images, bit for bit, and 1 if not. Digests of
your own detectors in the names of their attacks are ignored.
"""

import argparse
import re
import sys
from pathlib import Path

import numpy as np
import torch

from oodattack.auditing.store import Audit, open_audit
from oodattack.report.numbers import count_label

DIGEST = r"-[0-9a-f]{8}$"


def differences(old: Audit, new: Audit) -> list[str]:
    """One line for each set of scores and each attack that differs between the two."""
    found = []
    scores = [
        {(name, re.sub(DIGEST, "", images)): values for (name, images), values in audit.read_scores().items()}
        for audit in (old, new)
    ]
    for key in sorted(scores[0].keys() | scores[1].keys()):
        one, other = (values.get(key) for values in scores)
        label = f"scores of {key[0]} on {key[1]}"
        if one is None or other is None:
            found.append(f"{label}: only in {'the new' if one is None else 'the old'} audit")
        elif one.shape != other.shape:
            found.append(f"{label}: {len(one)} images, now {len(other)}")
        elif not torch.equal(one, other):
            difference = (one - other).abs().max()
            found.append(f"{label}: {int((one != other).sum())} of {len(one)} differ, by up to {difference:.3g}")
    keys = [{re.sub(DIGEST, "", key): key for key, _ in audit.shards()} for audit in (old, new)]
    for name in sorted(keys[0].keys() & keys[1].keys()):
        tables = [audit.read_attack(which[name]) for audit, which in zip((old, new), keys, strict=True)]
        for column in ("mape", "distance", "gradient_evaluations", "forward_evaluations"):
            one, other = (table[column].to_numpy() for table in tables)
            if not np.array_equal(one, other, equal_nan=True):
                found.append(f"{column} of {name} differs")
        images = [[cell["bytes"] for cell in table["image"].to_pylist()] for table in tables]
        if images[0] != images[1]:
            found.append(f"images of {name} differ")
    return found


def main() -> None:
    """Run the comparison; see the module's docstring."""
    parser = argparse.ArgumentParser(description="compare two audits bit for bit")
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    arguments = parser.parse_args()
    old, new = open_audit(arguments.old), open_audit(arguments.new)
    found = differences(old, new)
    scores = new.read_scores()
    sys.stdout.write("\n".join(found) + "\n" * bool(found))
    images = sum(map(len, scores.values()))
    sys.stdout.write(
        f"{count_label(len(scores), 'set')} of scores of {count_label(len({name for name, _ in scores}), 'detector')},"
        f" {count_label(images, 'score')}: {count_label(len(found), 'difference') if found else 'the same'}\n"
    )
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
