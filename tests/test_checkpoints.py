"""Reading weights: nothing in a file is executed, what does not fit is said, what is ours is plain."""

from __future__ import annotations

import collections
import hashlib
import json
import os
import pickle
import subprocess

import numpy as np
import pytest
import safetensors.torch
import torch
from mmengine.logging import HistoryBuffer
from mmseg.apis import init_model

from m2f_helpers import checkpoints, config
from m2f_helpers.config import build_model

NAME = "mask2former_r50_8xb2-160k_ade20k-512x512"


class Small(torch.nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.body, self.head = torch.nn.Linear(4, 8), torch.nn.Linear(8, classes)


class RunsCode:
    """Unpickled, it would make a file: the harmless stand-in for anything."""

    def __init__(self, path, function=os.system):
        self.path, self.function = path, function

    def __reduce__(self):
        return self.function, (f"touch {self.path}",)


class GetsAttribute:
    """The way around an allow-list that has the real getattr: HistoryBuffer leads to its module, that to everything."""

    def __reduce__(self):
        return getattr, (HistoryBuffer, "__init__")


class BuildsSubprocess:
    def __reduce__(self):
        return subprocess.check_output, (["true"],)


def load_weights(model, path):
    return checkpoints.load_state(model, checkpoints.read_checkpoint(path)["state_dict"])


def like_mmengine(model):
    """What MMEngine's own checkpoint hook writes: loss history, numpy scalars."""
    history = HistoryBuffer()
    for value in (3.0, 2.0):
        history.update(value)
    hub = {
        "log_scalars": {"train/loss": history},
        "runtime_info": {"iter": 1, "best_score": np.float32(0.5), "eta": np.float64(2.5), "last_ckpt": "x"},
        "resumed_keys": {"train/loss": True, "iter": True},
    }
    return {
        "meta": {"iter": 2, "dataset_meta": {"classes": ("a",)}},
        "state_dict": model.state_dict(),
        "message_hub": hub,
    }


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Small()


# --- reading -----------------------------------------------------------------------------------------------------


def test_weights_come_back_as_they_were(model, tmp_path):
    path = checkpoints.save_atomically({"state_dict": model.state_dict()}, tmp_path / "a" / "w.pth")
    other = Small()
    report = load_weights(other, path)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    assert report.text == "loaded 4 of 4 tensors"
    assert not list(tmp_path.rglob("*.part"))


def test_a_bare_state_dict_is_read_too(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "w.pth")
    assert set(checkpoints.read_checkpoint(tmp_path / "w.pth")) == {"meta", "state_dict"}


def test_safetensors_are_read(model, tmp_path):
    safetensors.torch.save_file(model.state_dict(), tmp_path / "w.safetensors")
    other = Small()
    assert load_weights(other, tmp_path / "w.safetensors").text == "loaded 4 of 4 tensors"
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_the_newest_is_the_one_that_the_folder_stands_at(tmp_path):
    """A run that replaces a longer one has the smaller number; the folder may have been moved since."""
    for name in ("iter_9.pth", "iter_10.pth", "iter_110.pth"):
        (tmp_path / name).write_bytes(b"x")
    assert checkpoints.newest_checkpoint(tmp_path).name == "iter_110.pth"
    (tmp_path / "last_checkpoint").write_text("/elsewhere/run/iter_9.pth")
    assert [p.name for p in checkpoints.all_checkpoints(tmp_path)] == ["iter_9.pth", "iter_110.pth", "iter_10.pth"]
    for text in ("", "iter_7.pth", "\x00"):  # killed while it was written; gone
        (tmp_path / "last_checkpoint").write_text(text)
        assert checkpoints.newest_checkpoint(tmp_path).name == "iter_110.pth"


def test_other_classes_are_said_in_words(model, tmp_path):
    path = checkpoints.save_atomically({"state_dict": model.state_dict()}, tmp_path / "w.pth")
    other = Small(classes=5)
    start = other.head.weight.clone()
    report = load_weights(other, path)
    assert report.text == "loaded 2 of 4 tensors; not loaded: head.weight 3x8 -> 5x8; head.bias 3 -> 5"
    assert torch.equal(other.head.weight, start) and torch.equal(other.body.weight, model.body.weight)


def test_missing_and_extra_tensors_are_said(model, tmp_path):
    state = {name: value for name, value in model.state_dict().items() if name != "body.bias"} | {"more": torch.ones(1)}
    path = checkpoints.save_atomically({"state_dict": state}, tmp_path / "w.pth")
    text = load_weights(Small(), path).text
    assert "loaded 3 of 4" in text and "1 not in the file (body.bias)" in text and "1 only in the file (more)" in text


def test_weights_of_another_model_are_refused(tmp_path):
    path = checkpoints.save_atomically({"state_dict": {"x": torch.ones(2)}}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="weights of another model"):
        load_weights(Small(), path)


def test_ddp_prefix_is_taken_off(model, tmp_path):
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    assert checkpoints.load_state(Small(), state).text == "loaded 4 of 4 tensors"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"no checkpoint", "not a readable checkpoint|refused"),
        (b"", "is empty .0 bytes.: copy or download it again"),
    ],
)
def test_damaged_files_are_one_sentence(tmp_path, content, sentence):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(ValueError, match=sentence) as caught:
        checkpoints.read_checkpoint(tmp_path / "w.pth")
    assert "\n" not in str(caught.value) and "w.pth" in str(caught.value)


def test_a_cut_file_and_a_missing_one(model, tmp_path):
    path = checkpoints.save_atomically({"state_dict": model.state_dict()}, tmp_path / "w.pth")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="cut off"):
        checkpoints.read_checkpoint(path)
    with pytest.raises(FileNotFoundError, match="no such checkpoint file"):
        checkpoints.read_checkpoint(tmp_path / "gone.pth")


@pytest.mark.parametrize("content", [torch.ones(3), {"epoch": 3}, {"state_dict": {"a": 1}}])
def test_files_without_weights_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="expected a checkpoint|no weights in this file"):
        checkpoints.read_checkpoint(tmp_path / "w.pth")


# --- files of others ---------------------------------------------------------------------------------------------


def test_mmengine_files_are_read_with_the_short_list(model, tmp_path):
    torch.save(like_mmengine(model), tmp_path / "w.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "w.pth", weights_only=True)
    content = checkpoints.read_checkpoint(tmp_path / "w.pth")
    history = content["message_hub"]["log_scalars"]["train/loss"]
    assert isinstance(history, HistoryBuffer) and history.current() == 2.0


def test_names_of_numpy_1_are_read(model, tmp_path):
    """The published files were saved under numpy 1, whose modules had other names."""
    torch.save(like_mmengine(model), tmp_path / "new.pth", _use_new_zipfile_serialization=False)
    data = (tmp_path / "new.pth").read_bytes()
    assert b"numpy._core.multiarray" in data
    (tmp_path / "old.pth").write_bytes(data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert checkpoints.read_checkpoint(tmp_path / "old.pth")["message_hub"]["runtime_info"]["best_score"] == 0.5


@pytest.mark.parametrize("evil", [RunsCode, GetsAttribute, BuildsSubprocess])
def test_a_file_that_wants_to_run_code_is_refused(model, tmp_path, evil):
    mark = tmp_path / "it_ran"
    payload = evil(mark) if evil is RunsCode else evil()
    torch.save({"state_dict": model.state_dict(), "meta": payload}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="refused, the file wants more than to store weights") as caught:
        checkpoints.read_checkpoint(tmp_path / "w.pth")
    assert not mark.exists() and "\n" not in str(caught.value)


def test_the_allow_list_ends_with_the_call(model, tmp_path):
    torch.save(like_mmengine(model), tmp_path / "w.pth")
    checkpoints.read_checkpoint(tmp_path / "w.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "w.pth", weights_only=True)


def test_cleaned_files_need_no_list(model, tmp_path):
    content = like_mmengine(model)
    weights = {name: value.clone() for name, value in content["state_dict"].items()}
    checkpoints.clean(content)
    path = checkpoints.save_atomically(content, tmp_path / "w.pth")
    assert torch.serialization.get_unsafe_globals_in_checkpoint(path) == []
    plain = torch.load(path, weights_only=True)
    assert plain["message_hub"]["runtime_info"] == {"iter": 1, "best_score": 0.5, "eta": 2.5, "last_ckpt": "x"}
    assert plain["message_hub"]["resumed_keys"] == {"iter": True}
    assert all(torch.equal(plain["state_dict"][name], value) for name, value in weights.items())


# --- published weights -------------------------------------------------------------------------------------------


def test_published_weights_are_found_in_the_metafile():
    entry = checkpoints.published(NAME)
    assert entry.file_name == f"{NAME}_20221204_000055-2d1f55f1.pth" and entry.sha256 == "2d1f55f1"
    assert entry.url.endswith(entry.file_name) and entry.miou == 47.87 and entry.config.is_file()
    with pytest.raises(ValueError, match=f"no 'resnet'; it has .*{NAME}"):
        checkpoints.published("resnet")


@pytest.fixture
def fake_download(monkeypatch, tmp_path):
    """Published weights that are a few bytes, and a downloader that copies them: no network."""
    import pooch

    monkeypatch.delenv(checkpoints.ADDRESS_VARIABLE, raising=False)
    content, calls = b"weights", []
    digest = hashlib.sha256(content).hexdigest()
    real = checkpoints.published(NAME)
    entry = checkpoints.Published(NAME, real.config, real.url, f"w-{digest[:8]}.pth", digest[:8], 47.87)
    monkeypatch.setattr(checkpoints, "published", lambda name: entry)
    served = {"content": content}

    class Downloader:
        def __init__(self, **options):
            assert options["progressbar"]

        def __call__(self, url, path, _):
            calls.append(url)
            if served["content"] is None:
                raise OSError("no network")
            with open(path, "wb") as file:
                file.write(served["content"])

    monkeypatch.setattr(pooch, "HTTPDownloader", Downloader)
    return collections.namedtuple("Fake", "entry calls served")(entry, calls, served)


def test_fetch_downloads_once_and_verifies(fake_download, tmp_path):
    path = checkpoints.fetch(NAME, tmp_path)
    assert path.read_bytes() == b"weights" and path.name == fake_download.entry.file_name
    assert checkpoints.fetch(NAME, tmp_path) == path and fake_download.calls == [fake_download.entry.url]


def test_fetch_mends_a_damaged_copy(fake_download, tmp_path):
    (tmp_path / fake_download.entry.file_name).write_bytes(b"half")
    assert checkpoints.fetch(NAME, tmp_path).read_bytes() == b"weights"


def test_fetch_refuses_what_is_not_the_published_file(fake_download, tmp_path):
    fake_download.served["content"] = b"<html>not found</html>"
    with pytest.raises(ValueError, match="the file name promises"):
        checkpoints.fetch(NAME, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_fetch_without_a_network_says_what_to_do(fake_download, tmp_path):
    fake_download.served["content"] = None
    with pytest.raises(ConnectionError, match="set M2F_WEIGHTS to its path, or use PROFILE = 'demo'") as caught:
        checkpoints.fetch(NAME, tmp_path)
    assert "\n" not in str(caught.value)


def test_fetch_takes_a_file_or_a_mirror_from_the_environment(fake_download, tmp_path, monkeypatch):
    own = tmp_path / "own.pth"
    own.write_bytes(b"weights")
    monkeypatch.setenv(checkpoints.ADDRESS_VARIABLE, str(own))
    assert checkpoints.fetch(NAME, tmp_path / "cache") == own and fake_download.calls == []
    own.write_bytes(b"others")
    with pytest.raises(ValueError, match="the file name promises"):
        checkpoints.fetch(NAME, tmp_path / "cache")
    monkeypatch.setenv(checkpoints.ADDRESS_VARIABLE, "https://mirror.example/w.pth")
    checkpoints.fetch(NAME, tmp_path / "cache")
    assert fake_download.calls == ["https://mirror.example/w.pth"]
    monkeypatch.setenv(checkpoints.ADDRESS_VARIABLE, str(tmp_path / "gone.pth"))
    with pytest.raises(FileNotFoundError, match="give a file, an address, or unset it"):
        checkpoints.fetch(NAME, tmp_path / "cache")


def test_start_weights_by_name(tmp_path):
    assert checkpoints.start_weights("random", "demo_day") is None
    assert checkpoints.start_weights("", "demo_day") == checkpoints.demo_weights()
    assert checkpoints.start_weights("own.pth", "demo_day").name == "own.pth"


# --- the weights in the package ----------------------------------------------------------------------------------


def test_shipped_weights_are_the_ones_described_and_plain():
    path = checkpoints.demo_weights()
    facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == facts["sha256"]
    assert path.stat().st_size <= 5_000_000
    assert torch.serialization.get_unsafe_globals_in_checkpoint(path) == []
    content = torch.load(path, weights_only=True)
    assert len(content["meta"]["dataset_meta"]["classes"]) == 150
    assert facts["command"] == "m2f pretrain" and facts["recipe"]["seed"] == 0


def test_shipped_weights_fill_the_demo_model_and_plain_mmseg_takes_them():
    model = build_model(config.base_config("demo"))
    report = load_weights(model, checkpoints.demo_weights())
    assert len(report.loaded) == len(model.state_dict()) and not report.unexpected
    plain = init_model(config.base_config("demo"), str(checkpoints.demo_weights()), device="cpu").state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in model.state_dict().items())


@pytest.mark.slow
def test_shipped_weights_reach_the_miou_that_is_written_beside_them(tmp_path):
    """On day scenes that neither pretraining nor its validation saw."""
    from m2f_helpers.data.preparation import prepare
    from m2f_helpers.data.scenes.dataset import make_scenes
    from m2f_helpers.inference import evaluation, models

    facts = json.loads(checkpoints.demo_weights().with_suffix(".json").read_text(encoding="utf-8"))
    pictures = prepare(make_scenes(tmp_path / "drawn", 0, 24, "day", seed=2), tmp_path / "prepared", workers=1).root
    model = models.load(config.base_config("demo"), checkpoints.demo_weights(), device="cpu")
    miou = evaluation.evaluate(model, pictures, progress=False).miou / 100
    assert facts["miou_day"] >= 0.8
    assert miou == pytest.approx(facts["miou_day"], abs=0.06)
