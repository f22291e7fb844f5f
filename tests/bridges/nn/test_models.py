"""Transformers' models on torch with packed layers: of folders and GGUF files, beside the same weights dense."""

import copy
import json

import mlx.core as mx
import pytest

torch = pytest.importorskip("torch", reason="the bridge needs torch")
pytest.importorskip("mlx_lm", reason="the models need transformers, which mlx-lm brings")

from lm_folders import FOLDERS, write_folder  # noqa: E402
from lm_models import transformers_model, write_gguf  # noqa: E402
from safetensors import safe_open  # noqa: E402
from torch._dynamo.testing import CompileCounterWithBackend  # noqa: E402

import mlx_dequant as mxd  # noqa: E402
from mlx_dequant import FormatError  # noqa: E402
from mlx_dequant.bridges.cache import WEIGHTS, release  # noqa: E402
from mlx_dequant.bridges.nn import GGUFEmbedding, GGUFLinear, GPTQLinear, load_transformers, replace_linears  # noqa: E402
from mlx_dequant.bridges.nn.layers import LINEARS  # noqa: E402
from mlx_dequant.bridges.torch import to_torch  # noqa: E402

IDS = torch.randint(0, 288, (2, 12), generator=torch.Generator().manual_seed(0))
# Groups of 64 and words of 3-bit codes divide them.
SIZES = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2}


@pytest.fixture
def folder(tmp_path):
    """Writes a small model as a folder: its path, and transformers' model of the same weights, dense."""

    def write(name="gptq act-order", kind="llama", **config):
        dense = transformers_model(kind, **SIZES)
        weights = {key: value.numpy() for key, value in dense.state_dict().items()}
        exact = write_folder(tmp_path / "model", name, json.loads(dense.config.to_json_string()) | config, weights)
        dense.load_state_dict({key: torch.from_numpy(value) for key, value in exact.items()})
        return tmp_path / "model", dense

    return write


def rewrite(path, change):
    """Writes a folder's file anew: `change` gives its tensors."""
    file = str(path / "model.safetensors")
    arrays = mx.load(file)
    mx.eval(arrays)  # they are read when they are needed, and this file is written over
    mx.save_safetensors(file, change(arrays))


def add(path, **tensors):
    """Puts more tensors into a folder's file."""
    rewrite(path, lambda arrays: {**arrays, **tensors})


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def assert_close(packed, dense):
    expected = logits(dense)
    assert (logits(packed) - expected).abs().max() < 2e-5 * expected.abs().max()


def generated(model):
    return model.generate(IDS[:1], max_new_tokens=8, do_sample=False, pad_token_id=0)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder(name, folder):
    path, dense = folder(name)
    model = load_transformers(path, torch.float32, "cpu")
    assert_close(model, dense)
    family = json.loads((path / "config.json").read_text())["quantization_config"]["quant_method"].replace("-", "_")
    assert type(model.model.layers[0].mlp.up_proj) is LINEARS[family]
    assert not model.training
    # The checkpoint's own names and types.
    stored = safe_open(path / "model.safetensors", "pt")
    assert set(model.state_dict()) == set(stored.keys())
    for key, tensor in model.state_dict().items():
        assert tensor.shape == stored.get_tensor(key).shape
        assert not key.startswith("model.layers") or tensor.dtype in (stored.get_tensor(key).dtype, torch.float32)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_saved_model_opens_again(name, folder, tmp_path):
    path, _ = folder(name)
    model = load_transformers(path, torch.float32, "cpu")
    model.save_pretrained(tmp_path / "saved")
    again = load_transformers(tmp_path / "saved", device="cpu")
    assert again.dtype == torch.float32
    assert torch.equal(logits(again), logits(model))
    kept = [json.loads((place / "config.json").read_text()) for place in (path, tmp_path / "saved")]
    assert kept[0]["quantization_config"] == kept[1]["quantization_config"]
    assert set(mxd.load(tmp_path / "saved").weights) == set(mxd.load(path).weights)


def test_released_codes_are_not_saved(folder, tmp_path):
    path, _ = folder("awq")
    model = load_transformers(path, torch.float32, "cpu")
    logits(model)
    release(model.model.layers[0].self_attn.q_proj)
    with pytest.raises(FormatError, match=r"q_proj.qweight: found released codes, expected the layer's own"):
        model.save_pretrained(tmp_path / "saved")


def assert_not_saved(model, name, folder):
    for one in (model, copy.deepcopy(model)):
        with pytest.raises(FormatError, match=rf"save_pretrained: found layers of {name}, .*expected a copy of {name}"):
            one.save_pretrained(folder)
    assert not folder.exists()


def test_what_no_folder_holds_is_not_saved(folder, tmp_path):
    path, dense = folder("gptq 3 bits")
    assert_not_saved(replace_linears(dense, path), "model", tmp_path / "saved")
    settings = json.loads((path / "config.json").read_text())
    settings["quantization_config"] |= {"checkpoint_format": "gptq_p", "format": "gptq_p"}  # codes are laid out anew
    (path / "config.json").write_text(json.dumps(settings))
    assert_not_saved(load_transformers(path, device="cpu"), "model", tmp_path / "saved")
    write_gguf(tmp_path / "model.gguf", "llama", transformers_model("llama"))
    assert_not_saved(load_transformers(tmp_path / "model.gguf", device="cpu"), "model.gguf", tmp_path / "saved")


@pytest.mark.parametrize("name", ["llama tied, with biases", "llama 3.1", "qwen3", "gemma3"])
def test_a_gguf_file(name, tmp_path):
    dense = transformers_model(name)
    write_gguf(tmp_path / "model.gguf", name, dense)
    model = load_transformers(tmp_path / "model.gguf", torch.float32, "cpu")
    assert_close(model, dense)
    assert isinstance(model.get_input_embeddings(), GGUFEmbedding)
    head = model.get_output_embeddings()
    assert isinstance(head, GGUFLinear)
    assert (head.weight is model.get_input_embeddings().weight) == dense.config.tie_word_embeddings
    assert model.config.eos_token_id is not None
    assert not any(parameter.ndim == 2 for parameter in model.parameters())


def test_plain_numbers_of_the_models_own_type_stay_dense(tmp_path):
    dense = transformers_model("llama")
    write_gguf(tmp_path / "model.gguf", "llama", dense, "F16")
    half = load_transformers(tmp_path / "model.gguf", torch.float16, "cpu")
    assert type(half.lm_head) is torch.nn.Linear
    whole = load_transformers(tmp_path / "model.gguf", torch.float32, "cpu")
    assert type(whole.lm_head) is GGUFLinear  # half the memory of float32
    assert_close(whole, dense)
    assert load_transformers(tmp_path / "model.gguf", device="cpu").dtype == torch.bfloat16


@pytest.mark.full
def test_one_graph_the_same_tokens_and_export(folder):
    path, dense = folder()
    model = load_transformers(path, torch.float32, "cpu")
    expected = logits(model)
    assert torch.equal(generated(model), generated(dense))
    counted = CompileCounterWithBackend("aot_eager")
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend=counted)(IDS, use_cache=False).logits
        program = torch.export.export(model, (IDS,), {"use_cache": False}, strict=False)
        exported = program.module()(IDS, use_cache=False).logits
    assert counted.frame_count == 1
    assert torch.equal(compiled, expected)
    assert torch.equal(exported, expected)
    targets = [str(node.target) for node in program.graph.nodes]
    assert targets.count("mlx_dequant.gptq_linear.default") == 2 * 7


def test_a_model_that_exists(folder):
    path, dense = folder()
    kept = dense.lm_head, dense.model.embed_tokens.weight
    expected = logits(dense)
    for layer in dense.model.layers:
        layer.mlp.up_proj.weight.data.zero_()  # replaced, so it does not count
    assert replace_linears(dense, mxd.load(path)) is dense
    assert isinstance(dense.model.layers[1].mlp.up_proj, GPTQLinear)
    assert (dense.lm_head, dense.model.embed_tokens.weight) == kept
    assert (logits(dense) - expected).abs().max() < 2e-5 * expected.abs().max()


def test_a_model_that_exists_and_a_gguf_file(tmp_path):
    dense = transformers_model("llama tied, with biases")
    write_gguf(tmp_path / "model.gguf", "llama tied, with biases", dense)
    expected = logits(dense)
    biases = [layer.mlp.up_proj.bias for layer in dense.model.layers]
    replace_linears(dense, tmp_path / "model.gguf")
    assert [layer.mlp.up_proj.bias for layer in dense.model.layers] == biases
    assert isinstance(dense.model.layers[0].self_attn.q_proj, GGUFLinear)
    assert type(dense.model.embed_tokens) is torch.nn.Embedding
    assert (logits(dense) - expected).abs().max() < 2e-5 * expected.abs().max()


def test_weights_are_there_once(folder):
    path, _ = folder()
    model = load_transformers(path, torch.float32, "cpu")
    before = list(WEIGHTS._entries.values())
    layer = model.model.layers[0].mlp.up_proj
    logits(model)
    assert list(WEIGHTS._entries.values()) == before  # nothing crossed again
    (entry,) = [entry for entry in before if entry.marks[0].tensor() is layer.qweight]
    assert layer.qweight.data_ptr() == to_torch(entry.weight.arrays["qweight"], "cpu").data_ptr()


def test_what_does_not_fit_is_named(folder, tmp_path):
    path, dense = folder()
    add(path, **{"model.layers.0.mlp.up_proj.bias": mx.zeros(192), "model.rotary_emb.inv_freq": mx.ones(4)})
    load_transformers(path, device="cpu")  # zeros, and what old checkpoints have
    add(path, **{"model.layers.0.mlp.up_proj.bias": mx.ones(192)})
    with pytest.raises(FormatError, match=r"model: model.layers.0.mlp.up_proj.bias: found, expected none such in a Ll"):
        load_transformers(path, device="cpu")
    with pytest.raises(FormatError, match=r"dtype: found torch.float64, expected float16"):
        load_transformers(path, torch.float64)
    dense.model.layers[1].mlp.up_proj = torch.nn.Linear(128, 128)
    with pytest.raises(FormatError, match=r"layer 'model.layers.1.mlp.up_proj': found a weight of \(192, 128\), expec"):
        replace_linears(dense, path)
    del dense.model.layers[0].mlp.up_proj
    with pytest.raises(FormatError, match=r"module 'model.layers.0.mlp.up_proj': found, expected none such in a Llama"):
        replace_linears(dense, path)


@pytest.mark.parametrize("name", ["model.norm.weight", "lm_head.weight"])
def test_a_missing_weight_is_named(name, folder):
    path, _ = folder()
    rewrite(path, lambda arrays: {key: array for key, array in arrays.items() if key != name})
    with pytest.raises(FormatError, match=rf"{name}: not found, expected in a LlamaForCausalLM"):
        load_transformers(path, device="cpu")


def test_a_packed_head_is_not_tied(folder):
    path, _ = folder()

    def with_packed_head(arrays):
        del arrays["lm_head.weight"]
        for key, array in list(arrays.items()):
            if "layers.0.self_attn.q_proj" in key:  # 128 outputs become 288
                wide = [array] * 3
                wide = array if key.endswith("g_idx") else mx.concatenate(wide, -1)[:, : array.shape[1] * 288 // 128]
                arrays[key.replace("model.layers.0.self_attn.q_proj", "lm_head")] = wide
        return arrays

    rewrite(path, with_packed_head)
    config = json.loads((path / "config.json").read_text()) | {"tie_word_embeddings": True}
    (path / "config.json").write_text(json.dumps(config))
    model = load_transformers(path, torch.float32, "cpu")
    assert isinstance(model.lm_head, GPTQLinear)
    assert logits(model).isfinite().all()
    model.save_pretrained(path / "saved")
    assert torch.equal(logits(load_transformers(path / "saved", device="cpu")), logits(model))
