"""What a command sets before JAX starts: devices, flags, cache, allocator. Each case is a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from colnorm import process

ROOT = Path(__file__).parents[1]
PROGRAM = """
import json, os, resource, sys
from colnorm import process
process.prepare(*json.loads(sys.argv[1]))
import jax, numpy as np
devices = jax.device_count()
def touch():
    np.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = [touch(), touch()][1]
flags, cache = os.environ["XLA_FLAGS"].split(), jax.config.values["jax_compilation_cache_dir"]
print(json.dumps({"devices": devices, "flags": flags, "cache": cache, "faults": touch() - before}))
"""


def prepared(*arguments, **environment):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_", "XDG_", "GLIBC_"))}
    environment = {**inherited, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **environment}
    command = [sys.executable, "-c", PROGRAM, json.dumps(arguments)]
    return json.loads(subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=True).stdout)


def test_a_command_keeps_its_memory_and_the_barriers(tmp_path):
    found = prepared(3, XDG_CACHE_HOME=str(tmp_path))
    assert found["devices"] == 3
    assert found["flags"] == ["--xla_disable_hlo_passes=cse_barrier_expander", "--xla_cpu_multi_thread_eigen=false"]
    assert found["cache"] == str(tmp_path / "colnorm")
    if process.platform.libc_ver()[0] == "glibc":
        assert found["faults"] < 2**24 * 8 / 4096 / 10  # an array of 128 MiB, twice: the second time its pages are there


def test_what_the_user_set_stays(tmp_path):
    flags = "--xla_disable_hlo_passes=cse --xla_force_host_platform_device_count=4"
    found = prepared(None, 128, XLA_FLAGS=flags, JAX_COMPILATION_CACHE_DIR=str(tmp_path))
    assert found["devices"] == 4
    assert found["flags"] == [*flags.split(), "--xla_cpu_multi_thread_eigen=false"]
    assert found["cache"] == str(tmp_path)


@pytest.mark.parametrize(
    ("cores", "batch_size", "expected"), [(2, 128, 2), (2, 7, 1), (6, 128, 4), (64, 128, 8), (3, None, 3), (1, 128, 1)]
)
def test_a_device_a_core_where_they_divide_the_batch(cores, batch_size, expected, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert process.cpu_devices(batch_size) == expected


def test_where_jax_runs_nothing_changes(monkeypatch):
    jax.devices()
    monkeypatch.setattr(process, "keep_freed_memory", lambda: pytest.fail("the allocator of a running process was changed"))
    before = os.environ["XLA_FLAGS"], jax.config.values["jax_compilation_cache_dir"]
    process.prepare(1)
    process.prepare(None, 128)
    assert before == (os.environ["XLA_FLAGS"], jax.config.values["jax_compilation_cache_dir"])


def test_devices_below_one_are_refused():
    with pytest.raises(ValueError, match="--devices must be at least 1, got 0"):
        process.prepare(0)
