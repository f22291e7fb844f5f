"""A format, a family, an operation and a backend are added as CONTRIBUTING says, to a copy of the package."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mlx_dequant as mxd

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()


def blocks(language: str, heading: str) -> list[str]:
    """The code blocks of a section of the guide."""
    section = GUIDE[GUIDE.index(f"## {heading}\n") :]
    section = section[: section.find("\n## ", 1)]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


class Copy:
    """A copy of the package, changed file by file."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.package = folder / "mlx_dequant"
        shutil.copytree(ROOT / "mlx_dequant", self.package, ignore=shutil.ignore_patterns("__pycache__"))

    def add(self, path: str, text: str) -> None:
        file = self.package / path
        assert not file.exists()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def insert(self, path: str, after: str, text: str) -> None:
        file = self.package / path
        old = file.read_text()
        assert old.count(after) == 1, f"{path}: {after!r}"
        file.write_text(old.replace(after, after + text))

    @property
    def changed(self) -> set[str]:
        """The files that differ from the package's, or are not there."""
        files = [path.relative_to(self.package) for path in self.package.rglob("*") if path.is_file()]
        originals = {path: ROOT / "mlx_dequant" / path for path in files if "__pycache__" not in path.parts}
        return {
            str(path)
            for path, original in originals.items()
            if not original.is_file() or original.read_bytes() != (self.package / path).read_bytes()
        }

    def run(self, code: str) -> str:
        paths = [str(self.folder), str(ROOT / "tests" / "tools")]
        program = f"import sys\nsys.path[:0] = {paths}\nimport warnings\nwarnings.simplefilter('error')\n{code}"
        done = subprocess.run([sys.executable, "-c", program], cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def copy(tmp_path):
    if "host" not in mxd.available_backends():
        pytest.skip("no C++ compiler was found")
    return Copy(tmp_path)


FORMAT = """
import numpy as np, mlx.core as mx, mlx_dequant as mxd
block = np.concatenate([np.array([0.5, 9], np.float16).view(np.uint8), np.arange(32, dtype=np.uint8) - 16])
with mxd.use_backend("host"):
    print(np.array(mxd.dequantize_gguf(np.tile(block, (2, 4)), "Q8_1", dtype=mx.float32)).tolist())
"""


def test_a_format_is_a_shader_file_and_a_row(copy):
    (shader,) = blocks("metal", "Add a format")
    (row,) = blocks("python", "Add a format")
    copy.add("metal/formats/gguf/q8_1.metal", shader)
    copy.insert("registry.py", "    # name, weights a block, bytes a block, ggml type\n", row)
    assert json.loads(copy.run(FORMAT)) == 2 * [4 * [i / 2 for i in range(-16, 16)]]
    assert copy.changed == {"metal/formats/gguf/q8_1.metal", "registry.py"}


def test_a_size_that_differs_from_the_shader_fails_to_compile(copy):
    (shader,) = blocks("metal", "Add a format")
    (row,) = blocks("python", "Add a format")
    copy.add("metal/formats/gguf/q8_1.metal", shader)
    copy.insert("registry.py", "    # name, weights a block, bytes a block, ggml type\n", row.replace("36", "72"))
    with pytest.raises(AssertionError, match="the registry's sizes of q8_1"):
        copy.run(FORMAT)


LOADER = """// Plain: signed bytes, four to a word
//
//   codes  int32 [rows, columns / 4]
//
//   w = q - 128

#include "../part.metal"
#include "../scales.metal"

struct no_group_params;

struct plain_loader {
  enum { layout_kn = 0, rows_per_thread = 1, qvm_rows = 8, qvm_columns = 8 };
  template <uint N>
  using group_params = no_group_params;
  device const uint8_t* codes;
  size_t pitch;
};

template <typename F>
inline plain_loader plain(part<int> codes, thread const LaunchParams& p) {
  plain_loader loader = {(device const uint8_t*)address(codes, 0), p.columns};
  return loader;
}

struct plain8 {
  enum { bits = 8, scale_block = 32, has_g_idx = 0 };
};

template <typename F, uint N, typename V>
inline float row_codes(thread const plain_loader& loader, uint row, uint column, thread V* q) {
  to_numbers<N>(load_fields<N, 4>(loader.codes + row * loader.pitch + column, 0, 255), 128, q);
  return 1.0f;
}

#include "../layout_nk.metal"
#include "../separate_rows.metal"
"""
WEIGHT = '''"""Plain weights."""

from .. import dtypes
from ..encoded import EncodedMatrix
from ..registry import formats
from . import check
from .base import QuantizedWeight


class PlainWeight(QuantizedWeight):
    family = "plain"

    def __init__(self, codes):
        codes = check.words("codes", codes)
        rows, words = codes.shape
        matrix = EncodedMatrix({"codes": codes}, formats()["plain8"], rows, 4 * words)
        self._set(matrix, (rows, 4 * words), dtypes.of("float32"))
'''
REFERENCE = '''"""Plain: bytes less 128."""

import numpy as np

from ..arrays import numpy


def weights(matrix):
    return numpy(matrix.arrays["codes"]).view(np.uint8).astype(np.float32) - 128
'''


def test_a_family_is_a_loader_a_weight_class_and_a_row(copy):
    copy.add("metal/formats/plain/plain.metal", LOADER)
    copy.add("weights/plain.py", WEIGHT)
    copy.add("backends/reference/plain.py", REFERENCE)
    row = '    Family("plain", "Plain", (("codes", "int"),), "codes", "plain", (8,)),\n'
    copy.insert("registry.py", "_FAMILIES = (\n", row)
    printed = copy.run("""
import numpy as np, mlx.core as mx, mlx_dequant as mxd, emulator
from mlx_dequant.weights.plain import PlainWeight
codes = np.random.default_rng(0).integers(0, 1 << 32, (64, 24), np.uint32)
weight = PlainWeight(codes)
expected = codes.view(np.uint8).astype(np.float32) - 128
x = np.random.default_rng(1).normal(size=(3, 96)).astype(np.float32)
def check():
    assert (np.array(weight.dequantize()) == expected).all()
    assert np.abs(np.array(weight.linear(mx.array(x))) - x @ expected.T).max() < 1e-2
    assert (np.array(weight.take(mx.array([5, -1]))) == expected[[5, -1]]).all()
    gradient = mx.grad(lambda x: weight.linear(x).sum())(mx.array(x))
    assert np.abs(np.array(gradient) - expected.sum(axis=0)).max() < 1e-2
for name in ("reference", "host"):
    with mxd.use_backend(name):
        check()
with emulator.metal():
    check()
print(weight.format.title)
""")
    assert printed == "Plain 8-bit\n"
    assert copy.changed == {
        "metal/formats/plain/plain.metal",
        "weights/plain.py",
        "registry.py",
        "backends/reference/plain.py",
    }


KERNEL = """// out[rows] = the sum of each row's weights, a thread a row

template <typename F, typename T, typename S>
inline void row_sums(thread const S& loader, device T* out, thread const LaunchParams& p,
                     uint threadgroup_index, uint thread_index) {
  uint row = threadgroup_index * 256 + thread_index;
  if (row >= p.rows) return;
  float sum = 0.0f;
  for (uint column = 0; column < p.columns; ++column) {
    float w[1];
    decode<F, 1>(loader, row, column, w);
    sum += w[0];
  }
  out[row] = T(sum);
}
"""
RULE = """    "row_sums": lambda device, matrix, M, dtype, operation: Plan(
        operation, "a thread a row", (launches.row_sums(matrix, dtype),)
    ),
"""
LAUNCH = """

def row_sums(matrix: EncodedMatrix, dtype: str) -> Launch:
    return Launch(kernels.ROW_SUMS, matrix.params(), -(-matrix.rows // THREADS), (matrix.rows,), dtype)
"""
FUNCTION = '''"""Sums of rows."""

from .. import backends, dispatch
from ..backends.gpu.launch import bind, device


def row_sums(weight):
    platform = backends.current_backend()
    plan = dispatch.plan(device(platform), weight.matrix, 0, "float32", "row_sums")
    (launch,) = plan.launches
    return bind(platform, weight.matrix, launch)(weight.matrix)
'''


def test_an_operation_is_a_kernel_a_spec_a_rule_and_a_function(copy):
    copy.add("metal/kernels/row_sums.metal", KERNEL)
    copy.insert(
        "kernels.py", 'GATHER_COLUMNS = KernelSpec("gather_columns", ("ids",))\n', 'ROW_SUMS = KernelSpec("row_sums")\n'
    )
    copy.insert("launches.py", "MAX_THREADS = 2**31 - 1  # of a grid: MLX counts no further\n", "")
    (copy.package / "launches.py").write_text((copy.package / "launches.py").read_text() + LAUNCH)
    copy.insert("dispatch.py", "RULES: dict[str, Rule] = {\n", RULE)
    copy.add("ops/row_sums.py", FUNCTION)
    printed = copy.run("""
import numpy as np, mlx.core as mx, mlx_dequant as mxd, emulator
from mlx_dequant.ops.row_sums import row_sums
rng = np.random.default_rng(0)
awq = mxd.AWQWeight(mx.array(rng.integers(0, 1 << 32, (64, 4), np.uint32)), mx.ones((2, 32), mx.float16),
                    mx.array(rng.integers(0, 1 << 32, (2, 4), np.uint32)), 32)
gguf = mxd.GGUFWeight(np.tile(np.array([0, 60] + 32 * [3], np.uint8), (5, 2)), "Q8_0")
for weight in (awq, gguf):
    expected = np.array(weight.dequantize(mx.float32)).sum(axis=1)
    with emulator.metal():
        assert (np.array(row_sums(weight)) == expected).all()
print("equal")
""")
    assert printed == "equal\n"
    assert copy.changed == {
        "metal/kernels/row_sums.metal",
        "kernels.py",
        "launches.py",
        "dispatch.py",
        "ops/row_sums.py",
    }


BACKEND = '''"""A backend of plain NumPy, for a test."""

from __future__ import annotations

from . import reference

CALLS = []


def available() -> bool:
    return True


def dequantize(matrix, dtype):
    CALLS.append("dequantize")
    return reference.dequantize(matrix, dtype)


def matmul(matrix, x, transpose):
    CALLS.append("matmul")
    return reference.matmul(matrix, x, transpose)


def gather(matrix, ids, dtype, axis):
    CALLS.append("gather")
    return reference.gather(matrix, ids, dtype, axis)
'''


def test_a_backend_is_a_module_of_four_functions_and_a_row(copy):
    copy.add("backends/toy.py", BACKEND)
    copy.insert("backends/__init__.py", "_BACKENDS: dict[str, ModuleType] = {", '"toy": toy, ')
    copy.insert("backends/__init__.py", "from . import experts, host, reference", ", toy")
    printed = copy.run("""
import numpy as np, mlx.core as mx, mlx_dequant as mxd
weight = mxd.GGUFWeight(np.tile(np.array([0, 60] + 32 * [3], np.uint8), (5, 2)), "Q8_0")
with mxd.use_backend("toy"):
    mx.eval(weight.dequantize(), weight.linear(mx.ones((1, 64))), weight.take(mx.array([1])))
from mlx_dequant.backends import toy
print(toy.CALLS)
""")
    assert printed == "['dequantize', 'matmul', 'gather']\n"
    assert copy.changed == {"backends/toy.py", "backends/__init__.py"}
