"""Whole models of random weights, timed in turn."""

from __future__ import annotations

import json
from types import SimpleNamespace

import mlx.core as mx
import pytest

pytest.importorskip("mlx_lm", reason="models are mlx-lm's")

import mlx_dequant as mxd
from mlx_dequant.bench import decode, models, random_layers, runners
from mlx_dequant.bench.cases import decode as case
from mlx_dequant.bench.cases import experts
from mlx_dequant.bench.cases.decode import Candidate, Plan
from mlx_dequant.bench.models import Kind
from mlx_dequant.cli import main
from mlx_dequant.diagnostics.graph import Cost
from mlx_dequant.nn import PackedLinear, PackedSwitchLinear
from mlx_dequant.weights.fused import joint

SMALL = models.CONFIGS["smollm2-135m"] | {"vocab_size": 320}
FIELDS = {
    "case", "model", "layers", "provider", "format", "decode_tokens_per_second", "prompt_tokens_per_second", "build_us",
    "launches", "text_bytes", "device",
}  # fmt: skip
PROVIDERS = ("mlx-dequant", "mlx")
FEW = ["--prompts", "3", "5", "--tokens", "2", "--rounds", "1"]


@pytest.fixture
def command(monkeypatch, tmp_path, capsys):
    """Runs `bench decode` on one small layer; gives the exit status, what it wrote and what it printed."""
    monkeypatch.setitem(models.CONFIGS, "smollm2-135m", SMALL)
    monkeypatch.setattr(runners, "PROMPT", 4)

    def run(*arguments: str):
        file = tmp_path / "decode.json"
        chosen = ["--model", "smollm2-135m", "--layers", "1", *FEW, *arguments]
        status = main(["bench", "decode", *chosen, "--json", str(file)])
        printed = capsys.readouterr()
        return status, json.loads(file.read_text()) if file.exists() else None, printed.out + printed.err

    return run


def test_a_run_times_every_model_that_the_shape_can_be(command):
    status, result, out = command()
    rows = {Kind(row["provider"], row["format"], row.get("has_g_idx", False)).title: row for row in result["rows"]}
    ours = ["q4_0", "q8_0", "awq4", "gptq4", "gptq4-act", "ct4", "mxfp4"]
    expected = [f"mlx {name}" for name in decode.MLX] + [f"mlx-dequant {name}" for name in ours]
    assert status == 0
    assert [name for name in rows if "torch" not in name] == expected
    assert result["absent"]["mlx-dequant q4_k"] == "found 576 inputs, expected a multiple of 256"
    for name, row in rows.items():
        assert row.keys() - {"has_g_idx"} == FIELDS, name
        assert (row["case"], row["model"], row["layers"]) == ("decode", "smollm2-135m", 1)
        assert row["decode_tokens_per_second"] > 0
        assert row["prompt_tokens_per_second"].keys() == {"3", "5"}
        assert min(row["prompt_tokens_per_second"].values()) > 0
        assert (row["build_us"] or 0) > 0 or not name.startswith("mlx ")
    assert rows["mlx mlx-4"]["launches"] == 1
    assert "tokens a second" in out


def test_formats_and_providers_are_chosen(command):
    status, result, _ = command("--formats", "ct4", "mlx-4", "gptq4-act", "--providers", "mlx-dequant")
    assert status == 0
    assert [(row["format"], row.get("has_g_idx")) for row in result["rows"]] == [("ct4", None), ("gptq4", True)]


def test_fused_models_take_their_turns_beside_the_others(command, monkeypatch):
    made = []
    stock = models.model
    monkeypatch.setattr(models, "model", lambda *arguments: made.append(stock(*arguments)) or made[-1])
    # What a product costs is measured, as on a GPU. The host's graphs cannot be exported.
    monkeypatch.setattr(case, "on_gpu", lambda: True)
    monkeypatch.setattr(case, "cost", lambda call: call() is None or Cost((), ()))
    status, result, out = command("--formats", "mlx-4", "q4_0", "gptq4-act-fused", "--fuse", "--providers", *PROVIDERS)
    assert status == 0
    rows = [[row["format"], row.get("has_g_idx"), row.get("fused")] for row in result["rows"]]
    assert rows == [["mlx-4", None, None], ["q4_0", None, None], ["q4_0", None, True], ["gptq4", True, True]]
    assert "gptq4-act-fused" in out
    packed = [[layer for _, layer in each.named_modules() if isinstance(layer, PackedLinear)] for each in made]
    assert all(row["build_us"] > 0 for row in result["rows"])
    # Measuring that has not ended the sharing.
    assert [sum(joint(layer.weight) is not layer.weight for layer in layers) for layers in packed] == [0, 0, 5, 5]
    shapes = [sorted(layer.weight.out_features for layer, _ in models.products(each)) for each in made[2:]]
    assert shapes == [[576, 576, 960, 3072]] * 2


def test_a_mixture_has_its_experts_products_measured(command, monkeypatch):
    small = {"hidden_size": 64, "moe_intermediate_size": 64, "head_dim": 16, "vocab_size": 320, "num_experts": 4}
    small |= {"num_attention_heads": 4, "num_key_value_heads": 2, "num_experts_per_tok": 2}
    monkeypatch.setitem(models.CONFIGS, "qwen3-30b-a3b", models.CONFIGS["qwen3-30b-a3b"] | small)
    chosen = ["--formats", "mlx-4", "q4_0", "gptq4-act", "dense"]
    status, result, out = command("--model", "qwen3-30b-a3b", *chosen, "--prompts", "3", "33")
    assert (status, result["absent"]) == (0, {"torch": "experts are not measured from torch"})
    assert len(result["rows"]) == 4
    for row in result["rows"]:
        experts = row["experts"]
        assert experts["up"].keys() == experts["down"].keys() == {"1", "3", "33"}
        assert min(*experts["up"].values(), *experts["down"].values()) > 0
        assert row["decode_tokens_per_second"] > 0
    assert result["rows"][0]["experts"]["launches"].keys() == {"1", "3", "33"}
    assert "Experts' products" in out and "mlx-dequant  gptq4-act  down" in out


def test_products_are_called_as_a_mixture_calls_them():
    """Few pairs as they come, a row of x for all of a token's experts; many sorted."""
    stack = mxd.stack([random_layers.quantized("q8_0", 64, 32, 32) for _ in range(4)])
    layer = PackedSwitchLinear(stack)
    for part, tokens, shape in (("up", 3, (3, 1, 1, 32)), ("down", 3, (3, 2, 1, 32)), ("up", 40, (80, 1, 32))):
        call = experts.product(layer, 2, part, tokens, mx.float32)
        x, ids = call.args
        assert (x.shape, call.keywords) == (shape, {"sorted_indices": tokens == 40})
        assert mx.array_equal(ids, mx.sort(ids)) or tokens == 3
        assert call().shape == (*ids.shape, 1, 64)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--formats", "q9_k"], "--formats: found q9_k, expected some of f32, f16"),
        (["--formats", "q4_k"], "found 576 inputs, expected a multiple of 256"),
        (["--formats", "mlx-4", "--providers", "mlx-dequant"], "found no model to measure"),
        (["--model", "gpt-9"], "--model: found gpt-9, expected one of llama-8b"),
        (["--model", "none.gguf"], "--layers: found one beside a GGUF file"),
    ],
)
def test_a_wrong_argument_is_exit_2(command, arguments, said):
    status, result, out = command(*arguments)
    assert (status, result) == (2, None)
    assert said in " ".join(out.split())


def test_options_in_front_of_the_subcommand_are_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "--json", "a.json", "decode"])
    assert stopped.value.code == 2
    assert "found --json before decode" in capsys.readouterr().err


@pytest.mark.parametrize("head", models.HEADS)
def test_all_models_share_the_embedding_and_the_output_layer(head):
    settings = SMALL | {"num_hidden_layers": 1, "tie_word_embeddings": False}
    ends = models.shared(settings, head, mx.float32)
    made = [
        models.model(kind, settings, mx.float32, ends) for kind in (Kind("mlx", "mlx-4"), Kind("mlx-dequant", "ct4"))
    ]
    assert set(ends) == {"model.embed_tokens", "lm_head"}
    for model in made:
        assert model.lm_head is ends["lm_head"] and model.model.embed_tokens is ends["model.embed_tokens"]
    packed = [layer for _, layer in made[1].named_modules() if isinstance(layer, PackedLinear)]
    assert len(packed) == 7 and {layer.weight.format.name for layer in packed} == {"ct4"}


class Fake:
    """A model that notes its turns."""

    def __init__(self, name, log, finite=True):
        self.name, self.log, self.finite = name, log, finite

    def tokens(self, count):
        while True:
            yield [0] * count

    def prompt(self, count):
        self.log.append((self.name, count))

    def wait(self):
        self.log.append((self.name, "decode"))

    def is_finite(self):
        return self.finite


def plan(sizes, log, memory, finite=lambda name: True, **numbers):
    made = {
        Kind("mlx", name): Candidate(lambda name=name: Fake(name, log, finite(name)), size)
        for name, size in sizes.items()
    }
    facts = {"model": "m", "layers": 1, "device": "d"}
    return Plan(facts, made, **{"prompts": [4], "tokens": 2, "rounds": 1, "memory": memory, **numbers})


def batches_of(chosen):
    found = {kind: case.Measured() for kind in chosen.candidates}
    return [[kind.format for kind in batch] for batch in case.batches(chosen, found)], found


def test_models_that_memory_does_not_hold_at_once_come_in_turn_beside_mlx_4():
    sizes = {"mlx-4": 4, "a": 4, "b": 4, "c": 4, "large": 16, "d": 12}
    assert batches_of(plan(sizes, [], 100))[0] == [["mlx-4", "a", "b", "c", "large", "d"]]
    found, measured = batches_of(plan(sizes, [], 12))
    assert found == [["mlx-4", "a", "b"], ["mlx-4", "c"], ["d"]]
    assert measured[Kind("mlx", "large")].problem["status"] == "left out"


def test_a_model_of_infinities_is_not_timed_and_rows_are_written_after_each_phase():
    log, written = [], []
    chosen = plan({"mlx-4": 1, "a": 1}, log, 10, finite=lambda name: name != "a")
    rows = case.measure(chosen, lambda text: None, written.append)
    assert {name for name, _ in log} == {"mlx-4"}
    assert (rows[1]["status"], rows[1]["decode_tokens_per_second"]) == ("wrong", None)
    known = [(row[0]["decode_tokens_per_second"], row[0]["prompt_tokens_per_second"]["4"]) for row in written]
    assert [tuple(map(bool, pair)) for pair in known] == [(False, False), (True, False), (True, True)]


def test_a_token_that_is_computed_ahead_is_waited_for(monkeypatch):
    waited = []
    generate = pytest.importorskip("mlx_lm.generate")
    monkeypatch.setattr(mx, "synchronize", waited.append)
    runners.MLXModel(SimpleNamespace(), 8, mx.float32).wait()
    assert waited == [generate.generation_stream]
