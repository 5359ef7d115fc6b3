"""The programs beside which `dl.benchmarks.gpt` measures: nanoGPT, transformers, llama.cpp."""

import contextlib
import importlib.util
import io
import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Callable

import torch
from torch import Tensor, nn

from dl.cli import catalogue
from dl.mytorch.data import Vocabulary
from dl.mytorch.torchvision_compat import import_transformers


def nanogpt_module(folder: Path) -> ModuleType:
    """Return its model.py. Raises `FileNotFoundError` when it is not there."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", folder / "model.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where a dataclass looks
    spec.loader.exec_module(module)
    return module


def nanogpt(module: ModuleType, sizes: dict[str, Any]) -> nn.Module:
    """Return its network in our sizes."""
    names = {"dim": "n_embd", "depth": "n_layer", "num_heads": "n_head", "max_length": "block_size"}
    with contextlib.redirect_stdout(io.StringIO()):
        own = {names.get(name, name): value for name, value in sizes.items() if name != "activation"}
        return module.GPT(module.GPTConfig(**own))


def transformers_gpt2(sizes: dict[str, Any]) -> nn.Module:
    """That of transformers in our sizes."""
    transformers = import_transformers()
    names = {"dim": "n_embd", "depth": "n_layer", "num_heads": "n_head", "max_length": "n_positions"}
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), sizes["dropout"])
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    own = {theirs: sizes[name] for name, theirs in names.items()}
    own |= {"vocab_size": sizes["vocab_size"], "activation_function": "gelu"}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**own, **dropout, **ends))


def of_transformers(name: str, model: nn.Module, sizes: dict[str, Any]) -> nn.Module:
    """Return the network of transformers that is a `model` of ours, "GPT/Qwen3"; of GPT-2 one of its `sizes`."""
    if name == "GPT/GPT2":  # whose layers have biases there
        return transformers_gpt2(sizes)
    theirs = catalogue.module(name, "convert").to_transformers(model)
    theirs.generation_config.pad_token_id = 0
    return theirs


def llama_cpp(name: str, model: nn.Module, folder: Path, rows: int) -> Callable[[int], Tensor]:
    """Return what continues `rows` texts of token 0 by so many tokens, drawn at temperature 1, with the weights of `model`.

    They are read from a file in float32; the cache is float16, llama.cpp's default, in which it is fastest. Raises
    `ImportError` without the packages llama_cpp and gguf, `LookupError` for a model that is not exported to it.
    """
    import llama_cpp as lib

    convert = catalogue.module(name, "convert")
    if not hasattr(convert, "to_gguf"):
        raise LookupError(f"{name} is not exported to it")
    path, classes = folder / "model.gguf", model.token_embedding.num_embeddings
    convert.to_gguf(model, Vocabulary([chr(0x4E00 + i) for i in range(classes)]), path)
    logging.getLogger("llama-cpp-python").setLevel(logging.ERROR)  # not hundreds of lines for each file
    lib.llama_backend_init()
    weights = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_seq_max = rows * model.max_length, max(32, rows), rows
    params.n_threads = params.n_threads_batch = torch.get_num_threads()
    context = lib.llama_init_from_model(weights, params)
    batch = lib.llama_batch_init(rows, 0, 1)

    def step(tokens: Tensor, place: int) -> Tensor:
        """Return the logits (rows, V) after the tokens (rows,) at a place of the texts."""
        batch.n_tokens = rows
        for row, token in enumerate(tokens.tolist()):
            batch.token[row], batch.pos[row], batch.logits[row] = token, place, 1
            batch.n_seq_id[row], batch.seq_id[row][0] = 1, row
        if lib.llama_decode(context, batch):
            raise RuntimeError("llama.cpp has no room for the texts")
        logits = [lib.llama_get_logits_ith(context, row)[:classes] for row in range(rows)]
        return torch.tensor(logits)

    def write(count: int) -> Tensor:
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        tokens, texts = torch.zeros(rows, dtype=torch.int64), []
        for place in range(count):
            tokens = step(tokens, place).softmax(-1).multinomial(1)[:, 0]
            texts.append(tokens)
        return torch.stack(texts, dim=1)

    return write
