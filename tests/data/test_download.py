import hashlib
import itertools
import stat
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from m2f_helpers import cli
from m2f_helpers.data import download
from m2f_helpers.data.download import get_ade20k
from m2f_helpers.data.layout import FOLDER, read_data
from m2f_helpers.data.scenes import dataset
from tests.data.test_layout import message

COUNTS = {"training": 30, "validation": 6}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return dataset.make_scenes(tmp_path_factory.mktemp("ade") / FOLDER, 30, 6, size=[96, 96])


@pytest.fixture(scope="module")
def archive(data, tmp_path_factory):
    """A small archive of the same layout as the real one."""
    path = tmp_path_factory.mktemp("zip") / "small.zip"
    with zipfile.ZipFile(path, "w") as opened:
        for file in sorted(data.rglob("*.jpg")) + sorted(data.rglob("*.png")):
            opened.write(file, f"{FOLDER}/{file.relative_to(data)}")
        opened.writestr(f"{FOLDER}/objectInfo150.txt", "Idx\tRatio\n")
    return path


def expect(monkeypatch, archive):
    """Let an archive be the one whose hash is known."""
    monkeypatch.setattr(download, "SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())


@pytest.fixture(autouse=True)
def small(monkeypatch, archive):
    """The small archive in the place of the real one."""
    monkeypatch.setattr(download, "COUNTS", COUNTS)
    expect(monkeypatch, archive)


@pytest.fixture
def server(archive, monkeypatch):
    """A host that misbehaves as its list says, one entry per request; afterwards it delivers."""
    host = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    host.content, host.behaviours, host.requests = archive.read_bytes(), [], []
    threading.Thread(target=host.serve_forever, daemon=True).start()
    host.url = f"http://127.0.0.1:{host.server_port}/small.zip"
    monkeypatch.setattr(download, "URL", host.url)
    yield host
    host.shutdown()
    host.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        host = self.server
        asked = self.headers.get("Range")
        host.requests.append(asked)
        behaviour = host.behaviours.pop(0) if host.behaviours else "deliver"
        content, start = host.content, 0
        if behaviour == "404":
            return self.send_error(404)
        if behaviour == "503":
            return self.send_error(503)
        if behaviour == "wrong bytes":
            content = b"<html>moved</html>" * 50
        if asked and behaviour != "ignore range":
            start = int(asked[6:-1])
            if start >= len(content):
                return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        part = content[start:]
        if behaviour in ("drop", "truncate"):
            part = part[: len(part) // (2 if behaviour == "truncate" else 4)]
        self.wfile.write(part)
        if part is not content[start:] and len(part) < len(content) - start:
            self.connection.close()

    def log_message(self, *_):
        pass


def names(root, split="training"):
    return [pair.name for pair in read_data(root).splits[split]]


# --- Download ------------------------------------------------------------------------------------------------------


def test_download_check_and_unpack(tmp_path, server, data):
    root = get_ade20k(tmp_path)
    assert root == tmp_path / FOLDER
    assert [names(root, split) for split in COUNTS] == [names(data, split) for split in COUNTS]
    for split in COUNTS:
        for ours, theirs in zip(read_data(root).splits[split], read_data(data).splits[split], strict=True):
            assert ours.image.read_bytes() == theirs.image.read_bytes()
            assert ours.label.read_bytes() == theirs.label.read_bytes()
    assert (root / "objectInfo150.txt").is_file()
    assert not list(tmp_path.glob("*.part")) and not list(tmp_path.glob(".*"))


def test_a_second_call_asks_for_nothing(tmp_path, server):
    get_ade20k(tmp_path)
    before = len(server.requests)
    get_ade20k(tmp_path)
    assert len(server.requests) == before == 1


def test_broken_download_goes_on_where_it_broke(tmp_path, server):
    server.behaviours = ["truncate", "drop"]
    get_ade20k(tmp_path)
    size = len(server.content)
    assert server.requests == [None, f"bytes={size // 2}-", f"bytes={size // 2 + (size - size // 2) // 4}-"]


def test_download_goes_on_in_a_later_call(tmp_path, server):
    server.behaviours = ["truncate", "503"]
    with pytest.raises(FileNotFoundError, match="the server says 503"):
        get_ade20k(tmp_path)
    assert (tmp_path / f"{FOLDER}.zip.part").stat().st_size == len(server.content) // 2
    get_ade20k(tmp_path)
    assert server.requests[-1] == f"bytes={len(server.content) // 2}-"


def test_server_without_range_starts_again(tmp_path, server):
    server.behaviours = ["truncate", "ignore range"]
    root = get_ade20k(tmp_path)
    assert len(names(root)) == 30


def test_host_that_always_breaks_is_given_up(tmp_path, server, monkeypatch):
    monkeypatch.setattr(download, "_RETRIES", 2)
    server.behaviours = ["drop"] * 50
    with pytest.raises(FileNotFoundError, match=r"the connection broke after \d+ of \d+ bytes"):
        get_ade20k(tmp_path)
    assert len(server.requests) == 3


def test_404_names_the_ways_out(tmp_path, server):
    server.behaviours = ["404"]
    with pytest.raises(FileNotFoundError) as caught:
        get_ade20k(tmp_path)
    text = str(caught.value)
    assert "the server says 404" in text and "down for weeks" in text
    assert "M2F_ADE20K_MIRRORS" in text and "M2F_ADE20K_ARCHIVE" in text and "demo profile needs no download" in text
    assert "\n" not in text


def test_wrong_bytes_are_refused_and_not_kept(tmp_path, server):
    server.behaviours = ["wrong bytes"]
    with pytest.raises(FileNotFoundError, match="wrong bytes"):
        get_ade20k(tmp_path)
    assert not list(tmp_path.iterdir())
    assert len(names(get_ade20k(tmp_path))) == 30


def test_next_mirror_after_a_bad_one(tmp_path, server, monkeypatch):
    server.behaviours = ["404", "wrong bytes"]
    monkeypatch.setenv("M2F_ADE20K_MIRRORS", f"{server.url}?1, {server.url}?2,{server.url}?3")
    monkeypatch.setattr(download, "URL", "http://127.0.0.1:9/never-reached.zip")
    get_ade20k(tmp_path)
    assert len(server.requests) == 3


def test_no_host_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "URL", "http://127.0.0.1:9/x.zip")
    with pytest.raises(FileNotFoundError, match="no connection .*demo profile"):
        get_ade20k(tmp_path)


# --- Archive -------------------------------------------------------------------------------------------------------


def test_local_archive_by_argument_variable_and_command(tmp_path, archive, monkeypatch):
    assert len(names(get_ade20k(tmp_path / "a", archive=archive))) == 30
    monkeypatch.setenv("M2F_ADE20K_ARCHIVE", str(archive))
    assert len(names(get_ade20k(tmp_path / "b"))) == 30
    monkeypatch.setattr(download, "SHA256", "0" * 64)
    result = CliRunner().invoke(cli.main, ["ade20k", str(tmp_path / "c"), "--archive", str(archive)])
    assert result.exit_code == 1
    assert "is not the archive expected: it differs in its checksum" in result.output


def test_truncated_local_archive(tmp_path, archive):
    short = tmp_path / "short.zip"
    short.write_bytes(archive.read_bytes()[:-500])
    with pytest.raises(ValueError, match="is no complete zip file .* of 967382037 bytes"):
        get_ade20k(tmp_path / "d", archive=short)
    with pytest.raises(FileNotFoundError, match="nowhere.zip does not exist"):
        get_ade20k(tmp_path / "d", archive=tmp_path / "nowhere.zip")


def test_archive_damaged_inside_leaves_nothing_behind(tmp_path, archive, monkeypatch):
    data = bytearray(archive.read_bytes())
    data[len(data) // 3] ^= 255
    damaged = tmp_path / "damaged.zip"
    damaged.write_bytes(data)
    expect(monkeypatch, damaged)
    with pytest.raises(ValueError, match="is damaged .*delete it and download it again"):
        get_ade20k(tmp_path / "d", archive=damaged)
    assert not list((tmp_path / "d").iterdir())


@pytest.mark.parametrize(
    "name", ["../evil.txt", "/evil.txt", f"{FOLDER}/../../evil.txt", "..\\evil.txt", "C:/evil.txt"]
)
def test_names_that_leave_the_folder_are_refused(tmp_path, archive, monkeypatch, name):
    with zipfile.ZipFile(_copy(archive, tmp_path), "a") as opened:
        opened.writestr(name, "x")
    expect(monkeypatch, tmp_path / "copy.zip")
    with pytest.raises(ValueError, match="is not safe to unpack: .*evil"):
        get_ade20k(tmp_path / "d", archive=tmp_path / "copy.zip")
    assert not list(tmp_path.rglob("evil*"))


def test_links_are_refused(tmp_path, archive, monkeypatch):
    link = zipfile.ZipInfo(f"{FOLDER}/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(_copy(archive, tmp_path), "a") as opened:
        opened.writestr(link, "/etc")
    expect(monkeypatch, tmp_path / "copy.zip")
    with pytest.raises(ValueError, match="is not safe to unpack"):
        get_ade20k(tmp_path / "d", archive=tmp_path / "copy.zip")


def _copy(archive, folder):
    (folder / "copy.zip").write_bytes(archive.read_bytes())
    return folder / "copy.zip"


def test_counts_are_checked(tmp_path, archive, monkeypatch):
    monkeypatch.setattr(download, "COUNTS", {"training": 20210, "validation": 2000})
    with pytest.raises(ValueError, match="expected 20210 training pairs, got 30"):
        get_ade20k(tmp_path, archive=archive)


def test_leftovers_of_a_killed_run_are_removed(tmp_path, archive):
    leftover = tmp_path / f".{FOLDER}.999999999.part" / "images"
    leftover.mkdir(parents=True)
    get_ade20k(tmp_path, archive=archive)
    assert not leftover.parent.exists()


# --- Subset --------------------------------------------------------------------------------------------------------


def test_subset_shows_as_many_classes_as_possible(tmp_path, archive, data):
    root = get_ade20k(tmp_path, [2, 1], archive=archive)
    assert root.name == f"{FOLDER}_subset_2_1"
    assert [len(names(root, split)) for split in COUNTS] == [2, 1]
    ids = [set(cv2.imread(str(pair.label), -1).ravel()) for pair in read_data(data).train]
    unions = [len(a | b) for a, b in itertools.combinations(ids, 2)]
    got = len({i for pair in read_data(root).train for i in set(cv2.imread(str(pair.label), -1).ravel())})
    assert got >= max(unions) - 1
    assert got > np.percentile(unions, 95)


def test_subset_is_deterministic(tmp_path, archive):
    roots = [get_ade20k(tmp_path / n, 5, archive=archive) for n in "ab"]
    assert names(roots[0]) == names(roots[1])
    assert [len(names(roots[0], split)) for split in COUNTS] == [5, 1]


@pytest.mark.parametrize("subset", [0, [3], [3, 0]])
def test_impossible_subsets(tmp_path, subset):
    with pytest.raises(ValueError, match="subset must be"):
        get_ade20k(tmp_path, subset)


def test_subset_larger_than_the_archive(tmp_path, archive):
    with pytest.raises(ValueError, match="asks for 31 training pairs, the archive has 30"):
        get_ade20k(tmp_path, 31, archive=archive)


def test_archive_that_is_not_unpacked(tmp_path, archive):
    assert "is not unpacked yet: `m2f ade20k DIR --archive" in message(archive)
    assert "is not unpacked yet" in message(archive.parent)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as opened:
        opened.writestr("ADE20K_2021_17_01/index_ade20k.pkl", "x")
    assert "is the full edition ADE20K_2021_17_01" in message(tmp_path / "x.zip")
    with pytest.raises(ValueError, match="is the full edition ADE20K_2021_17_01"):
        get_ade20k(tmp_path / "d", archive=tmp_path / "x.zip")
