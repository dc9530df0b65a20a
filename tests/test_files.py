import os
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
    for name in [*names, f".c.{os.getpid()}.part", ".d.part", "e.part"]:
        (tmp_path / name).touch()
    assert {path.name for path in files.orphans(tmp_path)} == set(names)
    zombie.wait()


def wait_for(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
