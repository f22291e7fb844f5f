"""The benchmark's method: equality first, wrong contestants disqualified, turns in changing order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from product_cases import by_traits

import mlx_dequant as mxd
from mlx_dequant.bench import cases, check, data, rounds, run, weights
from mlx_dequant.bench.cases import Case
from mlx_dequant.bench.contestants import Absent, LeftOut, Ready, found
from mlx_dequant.bench.contestants.ours import Ours

UNPACK = Case("dequantize", "q4_k", "a small layer", (128, 256))
PRODUCT = Case("linear", "q4_k", "a small layer", (128, 256), vectors=3)
FORMATS = ("q4_0", "q4_1", "q8_0", "q4_k", "mxfp4", "awq4", "gptq4", "gptq8", "ct4", "ct2", "gptq4-act")


def measured(case, *contestants):
    rows = run.measure(case, contestants, run.about(), budget=0.01, rounds=3)
    return {row["contestant"]: row for row in rows}


@dataclass
class Planted:
    """Ours, its results changed on the way."""

    change: Any = None
    name: str = "planted"
    device: str = "cpu"
    calls: int = 0

    def prepare(self, case: Case, inputs: data.Data) -> Ready | None:
        backend = "reference" if case.operation == "dequantize" else mxd.current_backend()
        ready = Ours(backend).prepare(case, inputs)
        if ready is None:
            pytest.skip("no C++ compiler was found, and the reference's products take no part")

        def call(i: int) -> Any:
            self.calls += 1
            return ready.call(i)

        return Ready(call, ready.wait, lambda result: self.change(ready.numpy(result)), ready.error)


def one_bit(place):
    """A change of the last bit of one float16 value."""

    def change(found: np.ndarray) -> np.ndarray:
        words = found.astype(np.float16).view(np.uint16)
        words[place] ^= 1
        return words.view(np.float16).astype(np.float32)

    return change


@pytest.mark.parametrize("place", [(0, 0), (64, 100), (127, 255)])
def test_one_wrong_bit_disqualifies(place):
    planted = Planted(one_bit(place))
    rows = measured(UNPACK, Ours("reference"), planted)
    assert rows["mlx-dequant reference"]["status"] == "timed"
    assert rows["planted"]["status"] == "disqualified"
    assert "1 of 16,384 values differ" in rows["planted"]["note"]
    assert rows["planted"]["seconds"] is None and rows["planted"]["gbps"] is None
    assert planted.calls == 1  # looked at, and never timed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: found * 1.01, "times the bound"),
        (lambda found: np.where(np.arange(128) == 127, np.nan, found), "times the bound"),
        (lambda found: found[:, :64], "shape (3, 64), expected (3, 128)"),
    ],
)
def test_a_wrong_product_is_disqualified(change, said):
    row = measured(PRODUCT, Planted(change))["planted"]
    assert row["status"] == "disqualified"
    assert said in row["note"]


def test_an_old_result_is_disqualified():
    class Stale(Planted):
        def prepare(self, case, inputs):
            ready = Ours("reference").prepare(case, inputs)
            return Ready(lambda i: ready.call(0), ready.wait, ready.numpy)

    assert measured(UNPACK, Stale())["planted"]["status"] == "disqualified"


@pytest.mark.parametrize(("error", "status"), [(ValueError("no\nmore"), "failed"), (LeftOut("too slow"), "left out")])
def test_a_contestant_that_cannot_is_no_harm_to_others(error, status):
    class Unable(Planted):
        def prepare(self, case, inputs):
            raise error

    rows = measured(UNPACK, Unable(), Ours("reference"))
    assert rows["planted"]["status"] == status
    assert rows["planted"]["note"] == ("ValueError: no" if status == "failed" else "too slow")
    assert rows["mlx-dequant reference"]["status"] == "timed"


@pytest.fixture(scope="module")
def everyone():
    here, absent = found()
    assert not set(absent) & {"ours", "gguf py", "mlx own", "dense"}
    # Compiling takes seconds; the eager contestant runs the same functions.
    return [one for one in here if "compile" not in one.name]


@pytest.mark.parametrize(
    "name",
    by_traits(FORMATS, ("q4_0", "q4_k", "mxfp4", "awq4", "ct4", "gptq4-act")),
)
def test_every_contestant_unpacks_right(name, everyone):
    rows = measured(Case("dequantize", name, "a small layer", (96, 256)), *everyone)
    assert {name: row["note"] for name, row in rows.items() if row["status"] != "timed"} == {}
    assert set(rows) >= {f"mlx-dequant {backend}" for backend in mxd.available_backends()} | {"copy"}
    if name in ("q4_0", "q4_1", "q8_0", "awq4", "gptq4", "gptq8", "ct4", "ct2", "mxfp4"):
        assert "MLX own" in rows


@pytest.mark.parametrize("dtype", by_traits(cases.DTYPES, ("float16", "float32")))
@pytest.mark.parametrize("name", ["q4_k", "awq4", "ct4", "mxfp4"])
def test_every_contestant_multiplies_right(name, dtype, everyone):
    rows = measured(Case("linear", name, "a small layer", (96, 256), dtype, 1), *everyone)
    wrong = {name: row["note"] for name, row in rows.items() if row["status"] != "timed"}
    # MLX's CPU product sums in x's type: it may be too far off, and then is disqualified.
    assert {key: note for key, note in wrong.items() if key != "MLX own" or "times the bound" not in note} == {}
    assert {"MLX dense", "copy"} <= set(rows)


def test_every_contestant_looks_up_right(everyone):
    rows = measured(Case("take", "q8_0", "a small table", (128, 256), vectors=7), *everyone)
    assert {row["status"] for row in rows.values()} == {"timed"}
    assert {"gguf-py", "MLX own", "copy"} <= set(rows)


@pytest.mark.parametrize("operation", ["to_mlx", "to_torch"])
def test_every_contestant_crosses_right(operation, everyone):
    pytest.importorskip("torch", reason="nothing crosses without torch")
    rows = measured(Case(operation, "", "1 MB", (512, 1024)), *everyone)
    assert {row["status"] for row in rows.values()} == {"timed"}
    assert {"mlx-dequant bridge", "copy"} <= set(rows)


@pytest.mark.parametrize("name", ["q6_k", *FORMATS])
def test_part_of_a_weight_is_that_part(name):
    w = weights.weight(name, 128, 256)
    with mxd.use_backend("reference"):
        whole, some = (np.asarray(of.dequantize(mx.float32)) for of in (w, data.part(w, 32, 64)))
    assert np.array_equal(whole[:, 32:96] if w.by_inputs else whole[32:96], some)


def test_inputs_rotate():
    inputs = data.of(PRODUCT)
    assert len(inputs.weights) == data.MOST and len(inputs.xs) == data.XS
    with mxd.use_backend("reference"):
        first, second, third = (np.asarray(w.dequantize(mx.float32)) for w in inputs.weights[:3])
    assert np.array_equal(first, third) and not np.array_equal(first, second)
    addresses = {np.asarray(w.inputs["blocks"]).ctypes.data for w in inputs.weights}
    assert len(addresses) == data.MOST


@pytest.mark.parametrize(
    ("case", "nbytes", "count"),
    [
        (UNPACK, 128 * 144 + 128 * 256 * 2, 128 * 256),
        (PRODUCT, 128 * 144 + 3 * (128 + 256) * 2, 128 * 256),
        (Case("take", "q4_k", "", (128, 256), "float32", 5), 5 * (144 + 256 * 4), 5 * 256),
        (Case("to_mlx", "", "1 MB", (512, 1024)), 2 << 20, 512 * 1024),
    ],
)
def test_bytes_are_counted(case, nbytes, count):
    inputs = data.Data() if case.operation == "to_mlx" else data.of(case)
    assert run.counted(case, inputs) == (nbytes, count)


def test_the_order_changes_and_the_slow_have_fewer_turns(monkeypatch):
    seconds = {"quick": 1e-4, "slow": 0.2, "slower": 9.0}
    turns: list[str] = []

    def once(ready, chain, turn):
        turns.append(ready.call)
        return seconds[ready.call]

    monkeypatch.setattr(rounds, "once", once)
    monkeypatch.setattr(rounds, "QUIET", 0.0)
    ready = {name: Ready(name, None, None) for name in seconds}
    taken = rounds.interleaved(ready, dict.fromkeys(seconds, 1), budget=1.0, rounds=12)
    assert {name: len(of.seconds) for name, of in taken.items()} == {"quick": 12, "slow": 3, "slower": 1}
    turns.clear()
    seconds["slow"] = 1e-3
    rounds.interleaved(dict(list(ready.items())[:2]), dict.fromkeys(seconds, 1), budget=1.0, rounds=3)
    # Two calls a turn, the first one untimed.
    orders = {tuple(turns[at : at + 4 : 2]) for at in range(0, 12, 4)}
    assert orders == {("quick", "slow"), ("slow", "quick")}


def test_chains_hide_launches_on_a_gpu_alone():
    assert rounds.chain_of("cpu", 10) == 1
    assert rounds.chain_of("cuda", 10) == rounds.CHAIN
    assert rounds.chain_of("metal", rounds.HELD // 3) == 3


def test_a_row_says_what_it_rests_on():
    row = measured(UNPACK, Ours("reference"))["mlx-dequant reference"]
    for name in ("backend", "device", "threads", "compiler", "mlx", "mlx_dequant", "python", "torch", "gguf"):
        assert name in row
    assert row["gbps"] == pytest.approx(row["bytes"] / row["seconds"] / 1e9)
    assert row["copy_share"] == pytest.approx(row["gbps"] / row["copy_gbps"])
    assert row["low"] <= row["seconds"] <= row["high"] and row["rounds"] == 3


def test_a_missing_library_is_named(monkeypatch):
    def missing():
        raise Absent("nothing of the kind is installed")

    monkeypatch.setattr("mlx_dequant.bench.contestants.dense.found", missing)
    here, absent = found(("ours", "dense"))
    assert absent == {"dense": "nothing of the kind is installed"}
    assert [one.name for one in here] == [f"mlx-dequant {name}" for name in mxd.available_backends()]


def test_small_differences_of_the_check():
    ones = np.ones(4, np.float32)
    assert check.unequal(ones, ones, 0.0) == ""
    assert check.unequal(ones, np.nextafter(ones, 2), 0.0).startswith("4 of 4 values differ")
    assert check.unequal(ones, ones + 0.01, 0.02) == ""
    assert check.unequal(np.full(4, np.nan, np.float32), ones, 0.02).startswith("4 of 4")
