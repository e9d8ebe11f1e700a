"""Files that are written completely or not at all: races between writers, crashes, and reading back."""

import errno
import hashlib
import json
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oodattack.core.errors import InputError, WriteError
from oodattack.storage import hashes
from oodattack.storage.directory import claim
from oodattack.storage.files import create_whole, is_partial, write_whole
from oodattack.storage.layout import Layout
from oodattack.storage.tables import create_table, read_record, read_table, with_record, write_table

WRITERS, SIZE, ROUNDS = 4, 200_000, 10


RUN = Layout("run", 4, documents={"run.json": "run"})


def never_begun(_path: Path) -> bool:
    return False


def _in_processes(target: Callable[..., None], *arguments: Any) -> list[Any]:
    """Start several processes at the same time and return what each puts into the queue."""
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(WRITERS), context.Queue()
    processes = [
        context.Process(target=target, args=(number, barrier, queue, *arguments), daemon=True)
        for number in range(WRITERS)
    ]
    for process in processes:
        process.start()
    results = [queue.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(timeout=120)
        assert process.exitcode == 0
    return results


def _content(number: int) -> bytes:
    return bytes([number]) * SIZE


def _race(number: int, barrier: Any, queue: Any, folder: Path) -> None:
    won = []
    for turn in range(ROUNDS):
        barrier.wait(timeout=120)
        won.append(create_whole(folder / f"{turn}", lambda partial: _write(partial, _content(number))))
        write_whole(folder / "last", lambda partial: _write(partial, _content(number)))
    queue.put((number, won))


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def test_exactly_one_of_several_creators_wins_and_no_file_is_torn(tmp_path: Path) -> None:
    wins = dict(_in_processes(_race, tmp_path))
    for turn in range(ROUNDS):
        [winner] = [number for number, won in wins.items() if won[turn]]
        assert (tmp_path / f"{turn}").read_bytes() == _content(winner)
    assert (tmp_path / "last").read_bytes() in [_content(number) for number in range(WRITERS)]
    assert len(list(tmp_path.iterdir())) == ROUNDS + 1  # no temporary files


def _claim(number: int, barrier: Any, queue: Any, folder: Path) -> None:
    barrier.wait(timeout=120)
    try:
        with claim(folder / "run", RUN, {"settings": {"seed": number}}, is_begun=never_begun) as header:
            queue.put(header["settings"]["seed"])
            barrier.wait(timeout=120)  # hold the directory until every process has tried
    except InputError as error:
        queue.put(str(error))
        barrier.wait(timeout=120)


def test_only_one_of_several_processes_claims_a_directory(tmp_path: Path) -> None:
    results = _in_processes(_claim, tmp_path)
    [winner] = [result for result in results if isinstance(result, int)]
    assert all("in use by another process" in result for result in results if isinstance(result, str))
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == {"format": 4, "settings": {"seed": winner}}


def _write_shards(number: int, barrier: Any, queue: Any, folder: Path) -> None:
    """Write the same shards as other processes, with other contents, as `Run.write_shard` does."""
    barrier.wait(timeout=120)
    for turn in range(ROUNDS):
        file = folder / "shards" / f"{turn}.parquet"
        if create_table(file, pa.table({"row": [number]})):
            hashes.record(folder, file)
    queue.put(number)


def test_hashes_are_those_of_the_winners_of_several_processes(tmp_path: Path) -> None:
    _in_processes(_write_shards, tmp_path)
    recorded = hashes.recorded(tmp_path)
    assert set(recorded) == {f"shards/{turn}.parquet" for turn in range(ROUNDS)}
    assert all(hashes.sha256_of(tmp_path / name) == digest for name, digest in recorded.items())


def write_and_stop(file: Path) -> None:
    file.write_text("second")
    raise InputError("no space left")


def test_a_file_never_has_the_hash_of_its_predecessor(tmp_path: Path) -> None:
    """If the process stops while it replaces the file, there is no hash, until the directory is claimed again."""
    layout = Layout("run", 4, documents={"run.json": "run"}, others=("*.txt",))
    file, gone, untracked = (tmp_path / name for name in ("a.txt", "gone.txt", "b.png"))
    with claim(tmp_path, layout, {}, is_begun=never_begun):
        for path in (file, gone):
            with hashes.replacing(tmp_path, path):
                path.write_text("first")
        untracked.write_text("a figure")
    gone.unlink()
    with pytest.raises(InputError), hashes.replacing(tmp_path, file):
        write_and_stop(file)
    assert set(hashes.recorded(tmp_path)) == {"run.json", "gone.txt"}
    with claim(tmp_path, layout, {}, is_begun=never_begun):
        pass
    recorded = hashes.recorded(tmp_path)
    assert set(recorded) == {"run.json", "a.txt"}
    assert recorded["a.txt"] == hashlib.sha256(b"second").hexdigest()
    # A recorded hash is kept: claiming a directory does not accept a file that was changed since.
    file.write_text("third")
    with claim(tmp_path, layout, {}, is_begun=lambda _: True):
        pass
    assert hashes.recorded(tmp_path) == recorded


def test_sha256sum_checks_the_recorded_hashes(tmp_path: Path) -> None:
    with claim(tmp_path, RUN, {}, is_begun=never_begun):
        pass
    [line] = (tmp_path / "hashes" / "run.json.sha256").read_text().splitlines()
    assert line == f"{hashlib.sha256((tmp_path / 'run.json').read_bytes()).hexdigest()}  run.json"
    for malformed in ("nonsense", line[:20], line.replace("  ", "0  ")):
        (tmp_path / "hashes" / "run.json.sha256").write_text(malformed)
        assert hashes.recorded(tmp_path) == {"run.json": ""}


def test_a_header_that_is_replaced_has_a_new_hash(tmp_path: Path) -> None:
    for seed in (1, 2):
        with claim(tmp_path, RUN, {"settings": {"seed": seed}}, is_begun=never_begun):
            pass
        assert hashes.recorded(tmp_path) == {"run.json": hashes.sha256_of(tmp_path / "run.json")}


def test_a_file_that_exists_is_not_overwritten_where_hard_links_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(_source: Path, _target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")  # what Linux raises on FAT

    monkeypatch.setattr(os, "link", no_links)
    created = [create_whole(tmp_path / "a", lambda partial, n=n: _write(partial, _content(n))) for n in (1, 2)]  # type: ignore[misc]
    assert created == [True, False]
    assert (tmp_path / "a").read_bytes() == _content(1)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_file_system_that_cannot_sync_directories_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, codes = os.fsync, iter([errno.EINVAL, errno.ENOTSUP, errno.EIO])

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code := next(codes), os.strerror(code))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    for name in "ab":
        write_whole(tmp_path / name, lambda partial: _write(partial, b"whole"))
        assert (tmp_path / name).read_bytes() == b"whole"
    with pytest.raises(WriteError, match=os.strerror(errno.EIO)):
        write_whole(tmp_path / "c", lambda partial: _write(partial, b"whole"))


CRASH = """
import os, signal, sys
from pathlib import Path
import pyarrow as pa
from oodattack.storage import files, tables

files.os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
getattr(tables, sys.argv[1])(Path(sys.argv[2]), pa.table({"row": range(1000)}))
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize("function", ["write_table", "create_table"])
def test_a_crash_before_the_rename_leaves_nothing_readable(function: str, tmp_path: Path) -> None:
    table = tmp_path / "a.parquet"
    crashed = subprocess.run([sys.executable, "-c", CRASH, function, str(table)], check=False, capture_output=True)
    assert crashed.returncode == -signal.SIGKILL, crashed.stderr.decode()
    [left] = tmp_path.iterdir()
    assert is_partial(left)
    assert pq.ParquetDataset(tmp_path).files == []  # other readers skip it, too
    # The next command that claims the directory ignores the file and deletes it.
    with claim(tmp_path, RUN, {}, is_begun=never_begun):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "hashes", "run.json"]


def test_only_our_own_temporary_files_are_deleted(tmp_path: Path) -> None:
    names = ["film.mp4.partial", ".hidden.partial", ".4711-0123456789abcdef.partial"]
    with claim(tmp_path, RUN, {}, is_begun=never_begun):
        (tmp_path / "shards").mkdir()
        for name in names:
            (tmp_path / "shards" / name).write_bytes(b"half")
    with claim(tmp_path, RUN, {}, is_begun=never_begun):
        pass
    assert {path.name for path in (tmp_path / "shards").iterdir()} == set(names[:2])


def test_a_header_is_replaced_only_while_nothing_depends_on_it(tmp_path: Path) -> None:
    def header(seed: int, torch: str = "2") -> dict[str, Any]:
        return {"format": 4, "settings": {"seed": seed}, "environment": {"torch": torch}}

    def on_disk() -> Any:
        return json.loads((tmp_path / "run.json").read_text())

    for seed in (1, 2):
        with claim(tmp_path, RUN, header(seed), is_begun=never_begun) as found:
            assert found == header(seed) == on_disk()
    written = (tmp_path / "run.json").stat()
    with claim(tmp_path, RUN, header(2), is_begun=never_begun):  # the same: not written again
        assert (tmp_path / "run.json").stat().st_ino == written.st_ino
    with (
        pytest.warns(UserWarning, match="begun in another environment"),
        claim(tmp_path, RUN, header(2, torch="3"), is_begun=lambda _: True) as found,
    ):
        assert found == header(2) == on_disk()
    with (
        pytest.raises(InputError, match=r"settings\.seed: the run has 2, this command has 3"),
        claim(tmp_path, RUN, header(3), is_begun=lambda _: True),
    ):
        pass
    assert on_disk() == header(2)


def test_environment_entries_that_an_older_version_did_not_record_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"format": 4, "environment": {"torch": "2"}}')
    header = {"environment": {"torch": "2", "device_model": "abacus"}}
    with claim(tmp_path, RUN, header, is_begun=lambda _: True) as found:
        assert found == {"format": 4, "environment": {"torch": "2"}}


def test_tables_and_their_records_are_read_back(tmp_path: Path) -> None:
    schema = with_record(pa.schema([("row", pa.int64())], metadata={"other": "kept"}), {"batch_sizes": [2, 1]})
    path = tmp_path / "a.parquet"
    write_table(path, pa.table({"row": [1, 2, 3]}, schema=schema))
    assert create_table(path, pa.table({"row": [4]})) is False
    assert read_table(path, ["row"])["row"].to_pylist() == [1, 2, 3]
    assert read_record(path) == {"batch_sizes": [2, 1]}
    assert pq.read_schema(path).metadata[b"other"] == b"kept"
    write_table(path, pa.table({"row": [4]}))
    assert read_record(path) == {}
    assert read_table(path)["row"].to_pylist() == [4]
    # The same table gives the same bytes, whoever writes it.
    assert create_table(tmp_path / "b.parquet", pa.table({"row": [4]}))
    assert (tmp_path / "b.parquet").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("record", ["{", "[1]"])
def test_a_damaged_record_names_the_file(record: str, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_table(path, pa.table({"row": [1]}).replace_schema_metadata({"oodattack": record}))
    with pytest.raises(InputError, match=r"cannot read .*a\.parquet.*delete it"):
        read_record(path)


def test_reading_runs_needs_no_torch() -> None:
    code = "import sys, oodattack.runs, oodattack.storage.directory; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
