"""`oodattack verify`: its messages and exit codes."""

import json
from pathlib import Path

import pytest

from tests.cli import oodattack
from tests.verifying import edit_json


def test_the_command_has_its_own_exit_code_and_json(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = oodattack(capsys, "verify", run)
    assert (done.code, done.out.splitlines()[-1]) == (0, f"run in {run}: no differences")
    assert oodattack(capsys, "verify", run, "--quiet") == (0, "", "")
    edit_json(run / "run.json", lambda header: header["settings"].update(eps=[1.0, 3.0]))
    done = oodattack(capsys, "verify", run, "--rescore", "--trust", "--device", "cpu", "--json")
    assert done.code == 4
    found = json.loads(done.out)
    assert (found["kind"], found["directory"]) == ("run", str(run))
    assert {"file": "shards/00000.parquet", "row": 1, "what": "eps", "stored": 4.0, "measured": 3.0} in found[
        "differences"
    ]
    done = oodattack(capsys, "verify", run)
    assert done.code == 4
    assert "differs    shards/00000.parquet, row 1: eps: stored 4, by the settings 3" in done.out
    assert oodattack(capsys, "verify", run, "--quiet").code == 4
    for arguments, message in (
        ((run, "--trust"), "expected --rescore with --encoder"),
        ((run / "shards",), "expected the directory of a run, an audit or a training"),
        ((run, "--rescore"), "names code that would run here"),
    ):
        done = oodattack(capsys, "verify", *arguments)
        assert done.code == 2
        assert message in done.err


def test_hostile_names_are_printed_harmlessly(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b[2J<b>"
    (run / "shards" / f"{hostile}.parquet").write_bytes(b"nothing")
    done = oodattack(capsys, "verify", run)
    assert done.code == 4
    assert "\x1b" not in done.out
    assert "shards/?[2J<b>.parquet" in done.out
