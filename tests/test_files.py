import errno
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from m2f_helpers import files


def test_write_takes_text_bytes_and_arrays(tmp_path):
    for k, data in enumerate(("\u00e9", b"\xc3\xa9", np.array([0xC3, 0xA9], np.uint8), b"")):
        stamp = files.write(tmp_path / f"{k}", data)
        assert files.read(tmp_path / f"{k}") == (b"\xc3\xa9" if k < 3 else b"", stamp)
    assert stamp[0] == 0 and sorted(os.listdir(tmp_path)) == ["0", "1", "2", "3"]


def test_a_file_is_read_whole_even_if_the_system_hands_it_out_in_pieces(tmp_path, monkeypatch):
    data = np.random.default_rng(0).integers(0, 256, 10_000, np.uint8).tobytes()
    files.write(tmp_path / "file", data)
    read = os.read
    monkeypatch.setattr(os, "read", lambda file, size: read(file, min(size, 999)))
    assert files.read(tmp_path / "file")[0] == data


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files, which Windows lacks")
def test_a_full_disk_leaves_the_old_file_and_no_half_one(tmp_path):
    # Above the limit the system takes a part of the bytes and says so, and refuses only the next call, like a disk
    # that is nearly full.
    code = """if True:
        import resource, sys
        from m2f_helpers import files
        files.write(sys.argv[1], b"old")
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        try:
            files.write(sys.argv[1], bytes(50_000))
        except OSError as error:
            print(type(error).__name__)
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(tmp_path / "file")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "OSError"
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_replacing_renames_at_the_end_or_not_at_all(tmp_path):
    path = tmp_path / "table.csv"
    with files.replacing(path) as temporary:
        temporary.write_text("new")
        assert not path.exists() and temporary.parent == tmp_path
    assert path.read_text() == "new"
    with pytest.raises(RuntimeError), files.replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["table.csv"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no processes that ended and were not asked")
def test_orphans_are_those_of_processes_that_are_gone(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    zombie = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    zombie.stdout.read()  # it has ended, but nobody has asked how
    wait_for(lambda: psutil.Process(zombie.pid).status() == psutil.STATUS_ZOMBIE)
    names = [f".a.jpg.{gone.pid}.part", ".b.999999999.part", f".b.png.{zombie.pid}.part"]
    others = {f".c.{os.getpid()}.part", ".d.part", "e.part"}
    for name in [*names, *others]:
        (tmp_path / name).touch()
    files.remove_orphans(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == others
    zombie.wait()


def wait_for(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


# --- Folders --------------------------------------------------------------------------------------------------------


HOLD = """import sys, time; from m2f_helpers import files
with files.locked(sys.argv[1]): print(1, flush=True); time.sleep(99)"""


def test_a_second_process_is_told_who_holds_the_folder_and_a_kill_frees_it(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "out"], stdout=subprocess.PIPE)
    holder.stdout.readline()
    with pytest.raises(files.InUse) as caught, files.locked(tmp_path / "out"):
        pass
    assert f"is in use by process {holder.pid} (-c {tmp_path}" in str(caught.value) and " since 20" in str(caught.value)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with files.locked(tmp_path / "out"):
        pass


def test_a_lock_ends_with_its_block_even_after_an_error(tmp_path):
    with pytest.raises(KeyError), files.locked(tmp_path):
        raise KeyError
    with files.locked(tmp_path):
        assert str(os.getpid()) in (tmp_path / files.LOCK).read_text()
    assert (tmp_path / files.LOCK).read_text() == ""


def test_a_file_in_place_of_the_output_folder(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(FileExistsError, match="out is a file: choose another folder"), files.locked(tmp_path / "out"):
        pass


@pytest.mark.parametrize("data, out", [("a", "a"), ("a", "a/b"), ("a/b/c", "a"), ("a", "link/b")])
def test_results_are_kept_out_of_the_data(tmp_path, data, out):
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(ValueError, match="must not contain each other: choose another output folder"):
        files.check_apart(tmp_path / data, tmp_path / out)
    files.check_apart(tmp_path / "a", tmp_path / "ab")


@pytest.mark.parametrize(
    "error, text",
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x.png"), "x.png: the disk is full: make room"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "out: the disk is full: make room"),
        (OSError(errno.EACCES, os.strerror(errno.EACCES), b"x.png"), "x.png: permission denied: choose another"),
        (OSError(errno.EXDEV, os.strerror(errno.EXDEV), "x"), "x: invalid cross-device link"),
        (OSError(errno.ENOSPC, "a sentence of ours"), "a sentence of ours"),
        (OSError("a sentence\nin two lines"), "a sentence in two lines"),
    ],
)
def test_errors_of_the_system_become_a_sentence_with_a_file_and_a_fix(error, text):
    assert files.sentence(error, "out").startswith(text) and "Errno" not in files.sentence(error, "out")
