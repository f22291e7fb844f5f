"""The benchmark's method: results are checked first, and wrong ones are not timed."""

from __future__ import annotations

import argparse
import importlib.util
from typing import Any

import numpy as np
import pytest
from product_cases import by_traits

import mlx_dequant as mxd
from mlx_dequant.bench import cases, data, options, results, run
from mlx_dequant.bench.cases import Case
from mlx_dequant.bench.providers import FILES, Absent, LeftOut, Ready, found
from mlx_dequant.bench.providers.ours import Ours
from mlx_dequant.diagnostics import compare

DEQUANTIZE = Case("dequantize", "q4_k", "a small layer", (128, 256))
MATMUL = Case("linear", "q4_k", "a small layer", (128, 256), M=3)
FORMATS = ("q4_0", "q4_1", "q8_0", "q4_k", "mxfp4", "awq4", "gptq4", "gptq8", "ct4", "ct2", "gptq4-act")


def case_of(operation: str, name: str, dtype: str = "float16", M: int = 0) -> Case:
    (case,) = cases.chosen([operation], [name], {"96x256": (96, 256)}, [M], [dtype])
    return case


def measured(case, *providers):
    return {row["provider"]: row for row in run.measure(case, providers, budget=0.01, rounds=3)}


class Planted(Ours):
    """Ours, its results changed on the way."""

    name, device = "planted", "cpu"

    def __init__(self, change: Any = None):
        object.__setattr__(self, "change", change)
        object.__setattr__(self, "calls", [])

    def prepare(self, case: Case, inputs: data.Data) -> Ready | None:
        backend = "reference" if case.case == "dequantize" else mxd.current_backend()
        ready = Ours(backend).prepare(case, inputs)
        if ready is None:
            pytest.skip("no C++ compiler was found, and the reference's products take no part")

        def call(i: int) -> Any:
            self.calls.append(i)
            return ready.call(i)

        return Ready(call, ready.wait, lambda result: self.change(ready.numpy(result)), ready.allowance)


def one_bit(place):
    """A change of the last bit of one float16 value."""

    def change(found: np.ndarray) -> np.ndarray:
        words = found.astype(np.float16).view(np.uint16)
        words[place] ^= 1
        return words.view(np.float16).astype(np.float32)

    return change


@pytest.mark.parametrize("place", [(0, 0), (64, 100), (127, 255)])
def test_one_wrong_bit_is_not_timed(place):
    planted = Planted(one_bit(place))
    rows = measured(DEQUANTIZE, Ours("reference"), planted)
    assert rows["mlx-dequant reference"]["status"] == "timed"
    assert rows["planted"]["status"] == "wrong"
    assert "1 of 16,384 values differ" in rows["planted"]["check"]
    assert rows["planted"]["seconds"] is None and rows["planted"]["gbps"] is None
    assert planted.calls == [0]  # looked at, and never timed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: found * 1.01, "times the bound"),
        (lambda found: np.where(np.arange(128) == 127, np.nan, found), "times the bound"),
        (lambda found: found[:, :64], "found shape (3, 64), expected (3, 128)"),
    ],
)
def test_a_wrong_matmul_is_not_timed(change, said):
    row = measured(MATMUL, Planted(change))["planted"]
    assert row["status"] == "wrong"
    assert said in row["check"]


def test_an_old_result_is_not_timed():
    class Stale(Planted):
        def prepare(self, case, inputs):
            ready = Ours("reference").prepare(case, inputs)
            return Ready(lambda i: ready.call(0), ready.wait, ready.numpy)

    assert measured(DEQUANTIZE, Stale())["planted"]["status"] == "wrong"


@pytest.mark.parametrize(("error", "status"), [(ValueError("no\nmore"), "failed"), (LeftOut("too slow"), "left out")])
def test_a_provider_that_cannot_is_no_harm_to_others(error, status):
    class Unable(Planted):
        def prepare(self, case, inputs):
            raise error

    rows = measured(DEQUANTIZE, Unable(), Ours("reference"))
    assert rows["planted"]["status"] == status
    assert rows["planted"]["check"] == ("ValueError: no" if status == "failed" else "too slow")
    assert rows["mlx-dequant reference"]["status"] == "timed"


@pytest.fixture(scope="module")
def everyone():
    here, absent = found()
    assert not set(absent) & {"ours", "gguf py", "mlx own", "dense"}
    # Compiling takes seconds; the eager provider runs the same functions.
    return [one for one in here if "compile" not in one.name]


@pytest.mark.parametrize("name", by_traits(FORMATS, ("q4_0", "q4_k", "mxfp4", "awq4", "ct4", "gptq4-act")))
def test_every_provider_dequantizes_right(name, everyone):
    rows = measured(case_of("dequantize", name), *everyone)
    assert {name: row["check"] for name, row in rows.items() if row["status"] != "timed"} == {}
    assert set(rows) >= {f"mlx-dequant {backend}" for backend in mxd.available_backends()} | {"copy"}
    if name in ("q4_0", "q4_1", "q8_0", "awq4", "gptq4", "gptq8", "ct4", "ct2", "mxfp4"):
        assert "MLX own" in rows


@pytest.mark.parametrize("dtype", by_traits(cases.DTYPES, ("float16", "float32")))
@pytest.mark.parametrize("name", ["q4_k", "awq4", "ct4", "mxfp4"])
def test_every_provider_multiplies_right(name, dtype, everyone):
    rows = measured(case_of("linear", name, dtype, 1), *everyone)
    wrong = {name: row["check"] for name, row in rows.items() if row["status"] != "timed"}
    # MLX's CPU kernel sums in x's type: it may be too far off, and then is not timed.
    assert {key: note for key, note in wrong.items() if key != "MLX own" or "times the bound" not in note} == {}
    assert {"MLX dense", "dequantize, then MLX dense", "copy"} <= set(rows)
    if name == "awq4" and importlib.util.find_spec("torch"):
        assert {"torch int4 cpu", "mlx-dequant from torch"} <= set(rows)


def test_every_provider_looks_up_right(everyone):
    rows = measured(Case("take", "q8_0", "a small table", (128, 256), M=7), *everyone)
    assert {row["status"] for row in rows.values()} == {"timed"}
    assert {"gguf-py", "MLX own", "copy"} <= set(rows)


@pytest.mark.parametrize("operation", ["to_mlx", "to_torch"])
def test_every_provider_crosses_right(operation, everyone):
    pytest.importorskip("torch", reason="nothing crosses without torch")
    rows = measured(Case(operation, "", "1 MB", (512, 1024)), *everyone)
    assert {row["status"] for row in rows.values()} == {"timed"}
    assert {"mlx-dequant bridge", "copy"} <= set(rows)


def test_inputs_rotate():
    inputs = MATMUL.operation.data(MATMUL)
    assert len(inputs.weights) == data.MOST and len(inputs.xs) == data.XS
    first, second, third = (compare.exact(w) for w in inputs.weights[:3])
    assert np.array_equal(first, third) and not np.array_equal(first, second)
    addresses = {np.asarray(w.arrays["blocks"]).ctypes.data for w in inputs.weights}
    assert len(addresses) == data.MOST


@pytest.mark.parametrize(
    ("case", "nbytes"),
    [
        (DEQUANTIZE, 128 * 144 + 128 * 256 * 2),
        (MATMUL, 128 * 144 + 3 * (128 + 256) * 2),
        (Case("take", "q4_k", "", (128, 256), "float32", 5), 5 * (144 + 256 * 4)),
        (Case("to_mlx", "", "1 MB", (512, 1024)), 2 << 20),
    ],
)
def test_bytes_are_counted(case, nbytes):
    inputs = data.Data() if case.case == "to_mlx" else case.operation.data(case)
    assert case.operation.nbytes(case, inputs) == nbytes


def test_chains_hide_launches_on_a_gpu_alone():
    assert run.chain_of("cpu", 10) == 1
    assert run.chain_of("cuda", 10) == run.CHAIN
    assert run.chain_of("metal", run.HELD // 3) == 3


def test_a_row_says_what_it_rests_on():
    rows = measured(DEQUANTIZE, Ours("reference"))
    row = rows["mlx-dequant reference"]
    assert set(results.FIELDS) <= set(row)
    assert row["gbps"] == pytest.approx(row["bytes"] / row["seconds"]["median"] / 1e9)
    assert row["share_of_copy"] == pytest.approx(row["gbps"] / rows["copy"]["gbps"])
    seconds = row["seconds"]
    assert seconds["min"] <= seconds["low"] <= seconds["median"] <= seconds["high"] and row["rounds"] == 3


def test_a_missing_library_is_named(monkeypatch):
    def missing():
        raise Absent("nothing of the kind is installed")

    monkeypatch.setattr("mlx_dequant.bench.providers.dense.found", missing)
    here, absent = found(("ours", "dense"))
    assert absent == {"dense": "nothing of the kind is installed"}
    assert [one.name for one in here] == [f"mlx-dequant {name}" for name in mxd.available_backends()]


def test_cases_and_files_that_take_part():
    """Each provider file belongs to a case, and each case names files that are there."""
    named = {file for name in cases.OPERATIONS for file in Case(name, "", "", (1, 1)).operation.PROVIDERS}
    assert named == set(FILES)
    act_order = case_of("linear", "gptq4-act", M=1)
    assert (act_order.format, act_order.has_g_idx) == ("gptq4", True)
    assert act_order.title == "linear gptq4-act, 96x256, 1 row"


@pytest.mark.parametrize(("arguments", "count"), [(["--formats", "all", "--rows", "1", "2"], 45 * 3), ([], 8 * 5)])
def test_options_choose_cases(arguments, count):
    parser = argparse.ArgumentParser()
    options.add(parser)
    given = ["--operations", "dequantize", "linear", "--layers", "64x256", *arguments]
    assert len(options.cases(parser.parse_args(given))) == count
    assert parser.parse_args(["--rows", "3"]).rows == [3]
    assert parser.parse_args(["--providers", "MLX"]).providers == ["MLX"]
