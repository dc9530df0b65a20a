"""`pkgutil.find_loader` as Python 3.14 has it: not at all."""

from __future__ import annotations

import subprocess
import sys

import pytest

from m2f_helpers.install import compat
from tests.conftest import ROOT

PREPARE = """
import pkgutil, sys
if hasattr(pkgutil, "find_loader"):
    del pkgutil.find_loader
"""


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_without_the_function_mmengine_and_mmcv_fail_and_with_the_package_they_run():
    use = "import mmcv.ops; from mmcv.utils import ext_loader; ext_loader.check_ops_exist(); print('runs')"
    bare = PREPARE + "import sys, types; sys.modules['mmcv._ext'] = types.ModuleType('mmcv._ext')\n"
    assert "find_loader" in python(bare + "from mmcv.utils import ext_loader; ext_loader.check_ops_exist()").stderr
    done = python(PREPARE + "import m2f_helpers\n" + use)
    assert done.stdout.strip() == "runs", done.stderr


def test_a_python_that_has_the_function_keeps_its_own():
    own = "import pkgutil; pkgutil.find_loader = own = lambda name: 1; import m2f_helpers; "
    done = python(own + "print(pkgutil.find_loader is own)")
    assert done.stdout.strip() == "True", done.stderr


def test_loader_of_a_module_of_nothing_and_of_nonsense():
    assert compat.find_loader("json").name == "json"
    assert compat.find_loader("no_such_module") is None
    with pytest.raises(ImportError, match="no_such_package"):
        compat.find_loader("no_such_package.part")
