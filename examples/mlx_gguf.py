"""A GGUF file answers a question on MLX; its weights stay packed all the way.

python examples/mlx_gguf.py MODEL.gguf "Why is the sky blue?"
"""

import sys

import mlx_lm

import mlx_dequant as mxd

path, question = sys.argv[1:]
model, tokenizer = mxd.lm.load(path)
prompt = tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True)
for response in mlx_lm.stream_generate(model, tokenizer, prompt, max_tokens=100):
    print(response.text, end="", flush=True)
print()
