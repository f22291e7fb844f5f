"""Writes `corpus/`: small good files of every kind, for each target a folder. `python -m tests.fuzz.seeds`."""

from __future__ import annotations

import json
import struct
from math import prod
from pathlib import Path
from random import Random

import gguf
import numpy as np

from .targets import SEPARATOR

CORPUS = Path(__file__).parent / "corpus"
RANDOM = Random(0)


def _gguf(path: Path, *, tensors: dict[str, tuple[int, tuple[int, ...]]], big: bool = False, **keys: object) -> None:
    """A file of tensors by name, of a type's number and a shape, the longest stride first."""
    order = gguf.GGUFEndian.BIG if big else gguf.GGUFEndian.LITTLE
    writer = gguf.GGUFWriter(path, "llama", endianess=order)
    for key, value in keys.items():
        key = key.replace("__", ".")
        match value:
            case int() if key == "general.alignment":
                writer.add_custom_alignment(value)
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case float():
                writer.add_float32(key, value)
            case str():
                writer.add_string(key, value)
            case _:
                writer.add_array(key, value)
    for name, (kind, shape) in tensors.items():
        form = gguf.GGMLQuantizationType(kind)
        block, size = gguf.GGML_QUANT_SIZES[form]
        rows = (*shape[:-1], shape[-1] // block * size)
        data = np.frombuffer(bytearray(RANDOM.randbytes(prod(rows))), np.uint8).reshape(rows)
        writer.add_tensor(name, data, raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_files(folder: Path) -> None:
    kinds = [kind for kind in gguf.GGMLQuantizationType if kind.name not in ("Q8_1", "Q8_K")]
    for part in range(4):
        names = {f"blk.{kind.value}.w": (kind.value, (1, gguf.GGML_QUANT_SIZES[kind][0])) for kind in kinds[part::4]}
        _gguf(folder / f"types-{part}.gguf", tensors=names)
    plain = {"a": (0, (2, 3)), "b": (1, (2, 4)), "e": (8, (2, 2, 32))}
    keys = {"general__alignment": 64, "x__text": "naïve", "x__flag": True, "x__real": 0.5}
    lists = {"x__numbers": [1, 2, 3], "x__texts": ["a", "", "東京"], "comfy__gguf__orig_shape__e": [4, 32]}
    _gguf(folder / "keys.gguf", tensors=plain, **keys, **lists)
    _gguf(folder / "big-endian.gguf", tensors={**plain, "q": (12, (1, 256))}, big=True, **lists)
    content = (folder / "keys.gguf").read_bytes()
    (folder / "version-2.gguf").write_bytes(content[:4] + struct.pack("<I", 2) + content[8:])


def _tokenizers(folder: Path) -> None:
    prefix = "tokenizer__ggml__"
    bytewise = ["<|end|>", "Ġ", "t", "h", "e", "r", "a", "i", "n", "Ġt", "he", "in", "Ġthe", "ai"]
    keys = {"model": "gpt2", "pre": "qwen2", "tokens": bytewise, "token_type": [3] + [1] * 13, "eos_token_id": 0}
    keys |= {"merges": ["Ġ t", "h e", "i n", "Ġt he"], "add_bos_token": False}
    _gguf(folder / "gpt2.gguf", tensors={}, **{prefix + key: value for key, value in keys.items()})
    pieces = ["<unk>", "<s>", "</s>", "<0x41>", *"▁theran", "▁t", "he", "▁the", "<turn>"]
    keys = {"model": "llama", "tokens": pieces, "scores": [-float(i) for i in range(len(pieces))]}
    keys |= {"token_type": [2, 3, 3, 6] + [1] * 10 + [4], "bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    keys |= {"add_space_prefix": True, "add_eos_token": True}
    named = {prefix + key: value for key, value in keys.items()}
    _gguf(folder / "llama.gguf", tensors={}, **named, tokenizer__chat_template="{{ messages[0].content }}")


SIZES = {"I32": 4, "F16": 2, "BF16": 2, "F32": 4, "U8": 1, "I8": 1, "I64": 8, "F8_E4M3": 1, "F8_E8M0": 1, "I16": 2}


def _folder(folder: Path, name: str, config: object, parts: dict[str, tuple[str, list[int], bytes | None]]) -> None:
    """A folder of one module: tensors by their last names, of a type, a shape, and bytes if they are not any."""
    header, data = {}, b""
    parts |= {"norm.weight": ("F32", [4], None)}
    for part, (kind, shape, content) in parts.items():
        header[f"l.0.{part}"] = {"dtype": kind, "shape": shape}
        data += RANDOM.randbytes(SIZES[kind] * prod(shape)) if content is None else content
    index = {"weight_map": dict.fromkeys(header, "model.safetensors")} if name.startswith("gptq") else None
    texts = [json.dumps({"quantization_config": config}), json.dumps(index) if index else "", json.dumps(header)]
    (folder / name).write_bytes(SEPARATOR.join([*(text.encode() for text in texts), data]))


def _folders(folder: Path) -> None:
    gptq = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False, "desc_act": False}
    awq = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "modules_to_not_convert": ["head"]}

    def words(*shape: int) -> tuple[str, list[int], None]:
        return "I32", list(shape), None

    def halves(*shape: int) -> tuple[str, list[int], None]:
        return "F16", list(shape), None

    def octets(kind: str, *shape: int) -> tuple[str, list[int], None]:
        return kind, list(shape), None

    order = struct.pack("<64i", *([0, 1] * 32))
    parts = {"qweight": words(8, 8), "scales": halves(2, 8), "qzeros": words(2, 1)}
    dynamic = {"dynamic": {"-:.*head": {}, r"+:.*\.1\..*": {"bits": 8}}}
    _folder(folder, "gptq", gptq | dynamic, parts | {"g_idx": ("I32", [64], order)})
    planar = {"qweight": words(10, 32), "scales": halves(2, 32), "qzeros": words(2, 5)}
    _folder(folder, "gptq-planar", gptq | {"bits": 5, "checkpoint_format": "gptq_p"}, planar)
    _folder(folder, "gptq-marlin", gptq | {"is_marlin_format": True}, {"B": words(4, 128), "s": halves(2, 64)})
    parts = {"qweight": words(64, 1), "scales": halves(2, 8), "qzeros": words(2, 1)}
    _folder(folder, "awq", awq, parts)
    round_ = {
        "quant_method": "auto-round",
        "packing_format": "auto_round:auto_awq",
        "extra_config": {"l.1": {"bits": 8}},
    }
    _folder(folder, "auto-round", awq | round_, parts)
    parts = {"qweight": words(8, 8), "scales": halves(8, 8), "qzeros": words(8, 1)}
    _folder(folder, "awq-gemv", awq | {"version": "gemv"}, parts)
    parts = {"qweight": octets("I16", 2, 64), "qzeros": ("F16", [8, 8], bytes(128))}
    parts["scales"] = ("F16", [8, 8], b"\0\x3c" * 64)
    _folder(folder, "awq-gemv-fast", awq | {"version": "gemv_fast"}, parts)
    _folder(folder, "awq-marlin", awq | {"version": "marlin"}, {"qweight": words(4, 128), "scales": halves(2, 64)})

    def compressed(kind: str, bits: int, **weights: object) -> dict[str, object]:
        group = {"targets": ["Linear"], "weights": {"num_bits": bits, "symmetric": False, **weights}, "format": kind}
        groups = {
            "group_0": group,
            "group_1": {"targets": [r"re:.*self_attn\.(q|k)_proj$"], "weights": {"num_bits": 8}},
        }
        return {"quant_method": "compressed-tensors", "format": kind, "config_groups": groups, "ignore": ["lm_head"]}

    shape = ("I64", [2], struct.pack("<2q", 8, 64))
    for bits, width, zeros in ((4, 8, words(1, 2)), (6, 12, octets("I8", 8, 2)), (3, 7, words(1, 2))):
        parts = {"weight_packed": words(8, width), "weight_scale": octets("BF16", 8, 2), "weight_shape": shape}
        config = compressed("pack-quantized", bits, strategy="group", group_size=32, type="int")
        _folder(folder, f"ct-packed-{bits}", config, parts | {"weight_zero_point": zeros})
    parts = {
        "weight": octets("I8", 8, 64),
        "weight_scale": octets("F32", 8, 1),
        "weight_zero_point": octets("I8", 8, 1),
    }
    _folder(folder, "ct-int8", compressed("int-quantized", 8, strategy="channel"), parts)
    parts = {"weight_packed": octets("U8", 8, 32), "weight_scale": octets("F8_E4M3", 8, 4)}
    config = compressed("nvfp4-pack-quantized", 4, strategy="tensor_group", group_size=16)
    _folder(folder, "ct-nvfp4", config, parts | {"weight_global_scale": octets("F32", 1)})
    parts = {"weight_packed": octets("U8", 8, 32), "weight_scale": octets("U8", 8, 2)}
    config = compressed("mxfp4-pack-quantized", 4, strategy="group", group_size=32)
    _folder(folder, "ct-mxfp4", config, parts)
    fp8 = {"quant_method": "fp8", "weight_block_size": [4, 32]}
    parts = {"weight": octets("F8_E4M3", 8, 64), "weight_scale_inv": octets("F32", 2, 2)}
    _folder(folder, "fp8", fp8, parts)
    parts = {"weight": octets("F8_E4M3", 8, 64), "weight_scale": octets("U8", 8, 2)}
    _folder(folder, "mxfp8", {"quant_method": "modelopt", "weight_block_size": [1, 32]}, parts)
    parts = {"w_blocks": octets("U8", 2, 4, 2, 16), "w_scales": octets("U8", 2, 4, 2)}
    _folder(folder, "gpt-oss", {"quant_method": "mxfp4"}, parts)


def _safetensors(folder: Path) -> None:
    header, data = {}, b""
    for kind, size in (SIZES | {"BOOL": 1, "U64": 8, "F64": 8, "C64": 8, "F8_E5M2": 1}).items():
        header[kind] = {"dtype": kind, "shape": [2, 3], "data_offsets": [len(data), len(data) + 6 * size]}
        data += RANDOM.randbytes(6 * size)
    header["empty"] = {"dtype": "F32", "shape": [0, 3], "data_offsets": [len(data)] * 2}
    text = json.dumps(header | {"__metadata__": {"by": "test"}}).encode()
    (folder / "types.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)


def main() -> None:
    for name, write in {
        "gguf": _gguf_files,
        "tokenizer": _tokenizers,
        "folder": _folders,
        "safetensors": _safetensors,
    }.items():
        folder = CORPUS / name
        folder.mkdir(parents=True, exist_ok=True)
        write(folder)
    (CORPUS / "weights").mkdir(exist_ok=True)
    for number in range(4):
        (CORPUS / "weights" / f"family-{number}").write_bytes(bytes([number]) + RANDOM.randbytes(200))


if __name__ == "__main__":
    main()
