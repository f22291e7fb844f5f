"""Real faults: a compiler that is killed, caches that are full, read-only or another user's, and no memory left."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys

import pytest
from gguf_bytes import gguf_bytes

from mlx_dequant.backends.host import compiler

pytestmark = pytest.mark.skipif(compiler.compiler() is None, reason="no C++ compiler was found")

# Prints the warnings, and whether the results are the reference's.
DEQUANTIZE = """
import sys, warnings
import mlx.core as mx, numpy as np
import mlx_dequant as mxd
weight = mxd.GGUFWeight(np.arange(68, dtype=np.uint8).reshape(2, 34), "Q8_0")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    with mxd.use_backend("host"):
        found = weight.dequantize(mx.float32)
with mxd.use_backend("reference"):
    assert mx.array_equal(found, weight.dequantize(mx.float32))
print(*(one.message for one in caught), sep="\\n")
"""


def dequantized(cache, mount="", **variables):
    """What a new process warns of. `mount` prepares the cache in a mount namespace of its own."""
    command = [sys.executable, "-c", DEQUANTIZE]
    if mount:
        if os.geteuid() or shutil.which("unshare") is None:
            pytest.skip("mounting a file system takes root and unshare")
        command = ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$0" "$@"', *command]
    environment = os.environ | {"MLX_DEQUANT_CACHE": str(cache)} | variables
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    if mount and "permission denied" in done.stderr.lower():
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_sound_machine_warns_of_nothing(tmp_path):
    assert dequantized(tmp_path / "cache") == ""


def test_a_compiler_that_is_killed(tmp_path):
    path = tmp_path / "killed"
    path.write_text('#!/bin/sh\nif [ "$1" = --version ]; then echo 1.0; exit 0; fi\nkill -9 $$\n')
    path.chmod(0o755)
    said = dequantized(tmp_path / "cache", CXX=str(path))
    assert "dequantize q8_0 could not be compiled and runs slowly instead" in said
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_full_cache(tmp_path):
    said = dequantized(tmp_path, f"mount -t tmpfs -o size=16k,mode=700 none {tmp_path}")
    assert "could not be compiled" in said and "No space left" in said


def test_a_read_only_cache(tmp_path):
    said = dequantized(tmp_path, f"mount -t tmpfs -o ro,mode=700 none {tmp_path}")
    assert "could not be compiled" in said and "Read-only file system" in said


def test_a_cache_on_a_disk_without_programs(tmp_path):
    said = dequantized(tmp_path, f"mount -t tmpfs -o noexec,mode=700 none {tmp_path}")
    assert "could not be compiled" in said and "failed to map segment" in said


@pytest.mark.parametrize("what", ["folder", "program"])
def test_a_cache_of_another_user(tmp_path, what):
    if os.geteuid():
        pytest.skip("giving a file to another user takes root")
    cache = tmp_path / "cache"
    assert dequantized(cache) == ""
    for path in [cache] if what == "folder" else cache.glob("*.so"):
        os.chown(path, 12345, 12345)
    assert "is not this user's alone to write" in dequantized(cache)


def test_a_flipped_bit_in_a_program(tmp_path):
    cache = tmp_path / "cache"
    assert dequantized(cache) == ""
    programs = sorted(cache.glob("*.so"))  # of dequantizing, and what surrounds it
    assert len(programs) == 2
    for program in programs:
        good = program.read_bytes()
        for place in range(0, len(good), len(good) // 2):
            program.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
            assert dequantized(cache) == ""
            assert program.read_bytes() == good


NO_MEMORY = """
import resource, sys
import mlx.core as mx
import mlx_dequant as mxd

def limit(extra):
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + extra if extra else -1, -1))

def refused(work):
    try:
        mx.eval(work())
    except MemoryError:
        return
    raise AssertionError("there was room")

checkpoint = mxd.load(sys.argv[1])
mx.eval(checkpoint.weights["small"].dequantize(mx.float32))
limit(8 << 20)
refused(lambda: mxd.load(sys.argv[1]))
refused(lambda: checkpoint.weights["large"].arrays["blocks"])
limit(0)
large = checkpoint.weights["large"]
for backend in ("host", "reference"):
    with mxd.use_backend(backend):
        limit(24 << 20)
        refused(lambda: large.dequantize(mx.float32))
        refused(lambda: large.take(mx.arange(2000)))
        limit(0)
        assert mx.sum(large.dequantize(mx.float32)).item() == 0
print("works on")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not limit a process's memory")
def test_no_memory_left(tmp_path):
    """MemoryError, where MLX's own copy writes to address 0; then the process works on."""
    assert resource.RLIM_INFINITY == -1
    path = tmp_path / "model.gguf"
    large = bytes(2048 * 8192 // 32 * 34)
    path.write_bytes(gguf_bytes({"large": (8, (2048, 8192), large), "small": (8, (1, 32), bytes(34))}))
    done = subprocess.run([sys.executable, "-c", NO_MEMORY, path], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "works on\n"), done.stderr
