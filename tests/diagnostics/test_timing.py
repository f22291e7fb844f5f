"""Timers: turns in changing order, budgets, chains; and what an environment report says."""

from itertools import accumulate
from pathlib import Path

import pytest

import mlx_dequant as mxd
from mlx_dequant.diagnostics import environment, timing
from mlx_dequant.diagnostics.timing import Call, Samples, interleaved


def test_the_order_changes_and_the_slow_have_fewer_turns(monkeypatch):
    seconds = {"quick": 1e-4, "slow": 0.2, "slower": 9.0}
    turns: list[str] = []

    def once(call, turn, chain):
        turns.append(call.begin)
        return seconds[call.begin]

    monkeypatch.setattr(timing, "once", once)
    monkeypatch.setattr(timing, "QUIET", 0.0)
    calls = {name: Call(name) for name in seconds}
    taken = interleaved(calls, rounds=12, budget=1.0)
    assert {name: len(of.seconds) for name, of in taken.items()} == {"quick": 12, "slow": 3, "slower": 1}
    turns.clear()
    interleaved({name: calls[name] for name in ("quick", "slow")}, rounds=5, warm=False)
    orders = {tuple(turns[at : at + 2]) for at in range(0, 10, 2)}
    assert orders == {("quick", "slow"), ("slow", "quick")}


def test_a_chain_begins_together_and_its_inputs_rotate():
    begun, waited = [], []
    call = Call(lambda i: begun.append(i) or i, waited.append, chain=3)
    seconds = timing.once(call, turn=2, chain=3)
    assert begun == [6, 7, 8] and waited == [[6, 7, 8]] and seconds > 0


def test_samples_are_summed_up():
    summary = Samples([4.0, 1.0, 2.0, 3.0, 10.0]).summary()
    assert summary == {"min": 1.0, "low": 2.0, "median": 3.0, "high": 4.0}
    assert Samples([2.0]).summary() == dict.fromkeys(("min", "low", "median", "high"), 2.0)


def test_the_overhead_of_a_call_is_the_lowest_median_of_runs(monkeypatch):
    slow, quick = [5] * 40, [1] * 13 + [9] * 7 + [1] * 20
    clock = accumulate(slow + quick + slow)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    assert timing.overhead(lambda: None, calls=20, runs=3) == 1


def test_a_child_prints_its_seconds_or_its_error():
    assert timing.in_child("import os; print(os.environ['ANSWER'])", {"ANSWER": "0.25"}) == 0.25
    with pytest.raises(RuntimeError, match="ValueError: no clock"):
        timing.in_child("raise ValueError('no clock')")


def test_the_report_says_what_matters_and_not_who(monkeypatch):
    monkeypatch.setenv("MLX_DEQUANT_CACHE", str(Path.home() / "kept"))
    facts = environment.report()
    assert f"mlx-dequant {mxd.__version__}" in facts["versions"]
    assert facts["cache"] == str(Path("~") / "kept")
    assert "MLX_DEQUANT_CACHE=~" in facts["settings"]
    assert facts["backends"].split(", ") == mxd.available_backends()
    assert str(Path.home()) not in str(facts)
    assert all("\n" not in fact and fact for fact in facts.values())


def test_a_result_says_what_it_rests_on(backend):
    found = environment.environment()
    assert found["backend"] == backend and found["device"] and found["threads"] > 0
    assert {"mlx-dequant", "mlx", "python", "numpy"} <= set(found["versions"])
    assert bool(found["compiler"]) == (backend == "host")
