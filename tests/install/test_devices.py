"""Which device is taken, what is said about one that is not here, and how much memory is free."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest
import torch

from m2f_helpers.install import devices
from m2f_helpers.install.devices import choose_device
from tests.conftest import ROOT


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many NVIDIA cards, and with or without Apple's GPU."""

    def build(cards=0, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cards > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return build


def test_the_fastest_is_chosen(machine):
    machine()
    assert choose_device() == "cpu" and choose_device("") == "cpu"
    machine(mps=True)
    assert choose_device() == "mps"
    machine(cards=1, mps=True)
    assert choose_device() == "cuda"


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:1"])
def test_a_given_one_stays_what_it_is(machine, name):
    machine(cards=2)
    assert choose_device(name) == name


@pytest.mark.parametrize("name", ["cuda:2", "cpu:7", "mps", "gpu", "cuda:", "CPU"])
def test_one_that_is_not_here_gets_a_list_of_those_that_are(machine, name):
    machine(cards=2)
    with pytest.raises(ValueError, match=rf"^expected a device out of cuda, cuda:0, cuda:1, cpu, got '{name}'"):
        choose_device(name)


def test_an_operator_that_mps_lacks_is_one_sentence_with_the_way_out():
    text = "The operator 'aten::unique_dim' is not currently implemented for the MPS device. If you want ..."
    wanted = pytest.raises(ValueError, match="aten::unique_dim.*PYTORCH_ENABLE_MPS_FALLBACK=1")
    with wanted as caught, devices.missing_operators_explained():
        raise NotImplementedError(text)
    assert "\n" not in str(caught.value)
    with pytest.raises(NotImplementedError, match="abstract"), devices.missing_operators_explained():
        raise NotImplementedError("abstract method")


def test_free_memory_is_the_least_of_system_container_and_ulimit(monkeypatch, tmp_path):
    free = psutil.virtual_memory()._replace(available=4_000_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    monkeypatch.setattr(devices, "_CGROUPS", [])
    assert devices.free_memory() == 4_000_000_000
    (tmp_path / "max").write_text("3000000000\n")
    (tmp_path / "current").write_text("2000000000\n")
    monkeypatch.setattr(devices, "_CGROUPS", [(tmp_path / "max", tmp_path / "current")])
    assert devices.free_memory() == 1_000_000_000
    (tmp_path / "max").write_text("max\n")
    assert devices.free_memory() == 4_000_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v works on Linux")
def test_free_memory_under_ulimit():
    code = "from m2f_helpers.install.devices import free_memory; print(free_memory())"
    # 8 GB: torch with CUDA's libraries does not load in 3
    command = f"ulimit -v 8000000; {sys.executable} -c '{code}'"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 8_000_000 * 1024
