"""Files of llama.cpp, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, of our Llama and Qwen3.

Weights stay float32, in the order in which torch has them. A vocabulary of characters is written as a SentencePiece
vocabulary of single characters, which has no merges, and word pieces as GPT-2's. Neither names an end of a text: llama.cpp then
takes the token 2 for it, of word pieces 11, and its programs stop there.
"""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dl.modules.GPT.BPE.tokenizer import BPE
from dl.modules.GPT.lora import merge
from dl.mytorch.data import Vocabulary
from dl.mytorch.names import substituted

SPACE = "\u2581"  # what SentencePiece writes for a space

# Our names as regular expressions, and those of llama.cpp.
NAMES = (
    *((r"^token_embedding", "token_embd"), (r"^norm\.", "output_norm."), (r"^blocks\.", "blk.")),
    *((r"\.attention\.query\.", ".attn_q."), (r"\.attention\.key\.", ".attn_k."), (r"\.attention\.value\.", ".attn_v.")),
    *((r"\.attention\.output\.", ".attn_output."), (r"\.norm1\.", ".attn_norm."), (r"\.norm2\.", ".ffn_norm.")),
    *((r"\.attention\.query_norm\.", ".attn_q_norm."), (r"\.attention\.key_norm\.", ".attn_k_norm.")),
    *((r"\.feed_forward\.(gate|up|down)\.", r".ffn_\1."),),
)


def write(model: nn.Module, architecture: str, vocabulary: Vocabulary | BPE, path: Path) -> None:
    """Write a Llama ("llama") or a dense Qwen3 ("qwen3") with its tokens to a file of llama.cpp.

    Adapters of LoRA are merged, in `model` too.

    Raises `ValueError` for a mixture of experts, `ImportError` without the package gguf.
    """
    import gguf

    first: Any = merge(model).blocks[0]
    attention, head_dim = first.attention, first.attention.head_dim
    if not hasattr(first.feed_forward, "gate") or first.feed_forward.gate is None or hasattr(first.feed_forward, "router"):
        raise ValueError("a mixture of experts is not exported")
    heads, kv_heads = (layer.out_features // head_dim for layer in (attention.query, attention.key))
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(model.max_length)
    writer.add_embedding_length(model.token_embedding.embedding_dim)
    writer.add_block_count(len(model.blocks))
    writer.add_feed_forward_length(first.feed_forward.gate.out_features)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(first.norm1.eps)
    writer.add_rope_freq_base(attention.rotary.base)
    writer.add_rope_dimension_count(head_dim)
    writer.add_vocab_size(len(vocabulary))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_tokens(writer, vocabulary)
    for name, weight in model.state_dict().items():
        if architecture == "llama" and name.endswith((".query.weight", ".key.weight")):
            weight = adjacent_pairs(weight, head_dim)
        writer.add_tensor(substituted(name, NAMES), weight.float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def adjacent_pairs(weight: Tensor, head_dim: int) -> Tensor:
    """Return the rows (heads D, C) of a projection with rotary pairs (2i, 2i + 1), which are (i, i + D/2) here."""
    return weight.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).flatten(0, 2)


def _add_tokens(writer: Any, vocabulary: Vocabulary | BPE) -> None:
    import gguf

    if isinstance(vocabulary, BPE):
        shown = vocabulary.shown()
        special = set(vocabulary.special.values())
        kinds = [gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL for i in range(len(shown))]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(shown)
        writer.add_token_types(kinds)
        writer.add_token_merges([f"{shown[left]} {shown[right]}" for left, right in vocabulary.merges])
    else:
        named = [token.startswith("<") and len(token) > 1 for token in vocabulary.tokens]  # "<unk>"
        kinds = [gguf.TokenType.UNKNOWN if each else gguf.TokenType.NORMAL for each in named]
        writer.add_tokenizer_model("llama")
        writer.add_token_list([token.replace(" ", SPACE) for token in vocabulary.tokens])
        writer.add_token_scores([0.0] * len(vocabulary))
        writer.add_token_types(kinds)
        writer.add_add_space_prefix(False)
    writer.add_add_bos_token(False)
