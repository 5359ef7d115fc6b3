"""BPE against its definition word for word, by its laws, and against tokenizers and tiktoken (in the parity tier)."""

import random
import time
from collections import Counter
from pathlib import Path

import pytest

from dl.modules.GPT.BPE.testing import MIXED, TEXT
from dl.modules.GPT.BPE.tokenizer import BPE, BYTES, END_OF_TEXT, word_pattern
from dl.mytorch.config import UserError

PUBLISHED = Path(__file__).parents[4] / "data" / "gpt2_bpe"


def by_definition(bpe: BPE, text: str) -> list[int]:
    """Word by word: join the pair of the earliest merge, wherever it stands, until none is left."""
    ids: list[int] = []
    for word in word_pattern().findall(text):
        parts = [BYTES.index(byte) for byte in word.encode()]
        while pairs := [pair for pair in zip(parts, parts[1:]) if pair in bpe.merges]:
            best = min(pairs, key=bpe.merges.__getitem__)
            i = 0
            while i + 1 < len(parts):
                if (parts[i], parts[i + 1]) == best:
                    parts[i : i + 2] = [bpe.merges[best]]
                i += 1
        ids += parts
    return ids


def random_bytes(count: int, seed: int = 0) -> str:
    return random.Random(seed).randbytes(count).decode(errors="surrogateescape")


# ---- words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("it's 12 o'clock", ["it", "'s", " 12", " o", "'", "clock"]),
        ("a  b", ["a", " ", " b"]),
        ("a \n b ", ["a", " \n", " b", " "]),
        ("x1_2y?!", ["x", "1", "_", "2", "y", "?!"]),
        ("\u4e00\u4e8c \u2167\u00bd", ["\u4e00\u4e8c", " \u2167\u00bd"]),  # Chinese 1 and 2 are letters
        ("a\x1cb\u00a0c", ["a", "\x1c", "b", "\u00a0", "c"]),
    ],
)
def test_words_of_a_text(text: str, words: list[str]) -> None:
    assert word_pattern().findall(text) == words


def test_no_character_is_lost() -> None:
    text = "".join(map(chr, range(0x3000))) + "".join(MIXED)
    assert "".join(word_pattern().findall(text)) == text


# ---- training ------------------------------------------------------------------------------------------------------


def test_the_most_frequent_pair_is_joined_each_time() -> None:
    """Merges by counting all pairs again, as Sennrich et al. wrote it down."""
    bpe = BPE.train(TEXT, 256 + 1 + 60)
    words = Counter(tuple(BYTES.index(byte) for byte in word.encode()) for word in word_pattern().findall(TEXT))
    for pair, new in bpe.merges.items():
        counts: Counter[tuple[int, int]] = Counter()
        for word, count in words.items():
            for there in zip(word, word[1:]):
                counts[there] += count
        assert counts[pair] == max(counts.values())
        assert pair == min(there for there in counts if counts[there] == counts[pair])
        joined: Counter[tuple[int, ...]] = Counter()
        for word, count in words.items():
            ids, i = [], 0
            while i < len(word):
                both = word[i : i + 2] == pair
                ids.append(new if both else word[i])
                i += 1 + both
            joined[tuple(ids)] += count
        words = joined


def test_a_text_in_parts_and_one_that_runs_out_of_pairs() -> None:
    cut = TEXT.index(" t", 100)  # where a word begins
    assert BPE.train(iter([TEXT[:cut], TEXT[cut:]]), 300) == BPE.train(TEXT, 300)
    bpe = BPE.train("aaaa", 1000)
    assert bpe.tokens[256:] == [b"aa", b"aaaa", END_OF_TEXT.encode()] and len(bpe) == 259
    assert bpe.encode("aaaaaaa") == [257, 256, 64]  # 64: "a", after 33 signs and 31 letters


def test_sizes_and_texts_that_are_invalid_are_refused() -> None:
    for text in ("", []):
        with pytest.raises(UserError, match="empty text"):
            BPE.train(text, 300)
    with pytest.raises(UserError, match="a vocabulary of 256 has no room for 256 bytes and 1 special tokens"):
        BPE.train(TEXT, 256)
    for merges in ([(0, 256)], [(-1, 0)], [(0, 1), (0, 1)]):
        with pytest.raises(ValueError, match="joins the ids"):
            BPE(merges)


# ---- encoding ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bpe() -> BPE:
    return BPE.train("".join(MIXED) * 3 + TEXT + "aaaaaaa aaaaa baaaab " * 5, 420)


def test_ids_are_those_of_the_definition(bpe: BPE) -> None:
    letters = random.Random(0)
    texts = [*MIXED, TEXT, "a" * 40, *("".join(letters.choices("abt he", k=30)) for _ in range(50))]
    for text in texts:
        assert bpe.encode(text) == by_definition(bpe, text)


def test_any_bytes_come_back(bpe: BPE) -> None:
    for text in (*MIXED, TEXT, "", random_bytes(5000), bytes(range(256)).decode(errors="surrogateescape")):
        assert bpe.decode(bpe.encode(text), errors="surrogateescape") == text
    assert bpe.decode(bpe.encode("\u5b66")[:1]) == "\ufffd"  # a part of a character
    for wrong in (420, -1):
        with pytest.raises(ValueError, match=f"{wrong} is no id of a vocabulary of 420 tokens"):
            bpe.decode([wrong])


def test_halves_of_a_character_are_joined_or_replaced(bpe: BPE) -> None:
    """As JSON has them; what stands for bytes that are no UTF-8 stays, see `test_any_bytes_come_back`."""
    whole = "a \U0001f600 \U00020000b"
    for text, meant in (("a \ud83d\ude00 \ud840\udc00b", whole), ("\ud83d", "\ufffd"), ("\ude00a\ud83d", "\ufffda\ufffd")):
        assert bpe.encode(text) == bpe.encode(meant) and bpe.decode(bpe.encode(text)) == meant
    assert BPE.train("a \ud840\udc00b" * 9, 270) == BPE.train("a \U00020000b" * 9, 270)


def test_a_special_token_that_is_named_twice_has_one_id() -> None:
    bpe = BPE.train("aaa bbb " * 50, 260, special=("<|a|>", "<|b|>", "<|a|>"))
    assert len(bpe) == 260 and bpe.special == {"<|a|>": 258, "<|b|>": 259} and bpe.decode([258, 259]) == "<|a|><|b|>"


def test_special_tokens_are_never_made_of_a_text(bpe: BPE) -> None:
    end = bpe.special[END_OF_TEXT]
    assert end == 419 and bpe.decode([end]) == END_OF_TEXT
    assert end not in bpe.encode(END_OF_TEXT) and bpe.decode(bpe.encode(END_OF_TEXT)) == END_OF_TEXT


def test_a_word_of_forty_thousand_letters_takes_no_time() -> None:
    """By the definition, 10^9 comparisons."""
    bpe = BPE.train("ab" * 50 + " " + "ba" * 30, 300)
    started = time.process_time()
    assert len(bpe.encode("ab" * 20_000)) < 20_000 and not bpe.known
    assert time.process_time() - started < 5


# ---- other libraries -----------------------------------------------------------------------------------------------


def mixed_megabyte() -> str:
    """Code and prose of this repository, Chinese, emoji and letters of all kinds at random, white space, random bytes."""
    chance = random.Random(1)
    root = Path(__file__).parents[4]
    parts = [path.read_text(encoding="utf-8") for path in sorted(root.glob("dl/mytorch/*.py"))]
    parts += [(root / "README.zh-CN.md").read_text(encoding="utf-8")]
    for first, last in ((0x4E00, 0x9FFF), (0x1F300, 0x1F64F), (0xA0, 0x24F), (0x370, 0x4FF), (0x600, 0x6FF), (0x2000, 0x206F)):
        parts += ["".join(chr(chance.randint(first, last)) for _ in range(chance.randint(1, 9))) for _ in range(5000)]
    parts += ["".join(chance.choices(" \t\n\r\u00a0\u3000x1.'", k=12)) for _ in range(5000)]
    parts += [chance.randbytes(40).decode(errors="replace") for _ in range(2000)]
    while sum(map(len, parts)) < 1_000_000:
        parts += MIXED * 100
    chance.shuffle(parts)
    return " ".join(parts)


@pytest.mark.parity
@pytest.mark.skipif(not PUBLISHED.exists(), reason=f"{PUBLISHED} is not there: encoder.json and vocab.bpe of openai/gpt-2")
def test_ids_by_gpt_2_s_files_are_those_of_tokenizers_and_tiktoken() -> None:
    tokenizers, tiktoken = pytest.importorskip("tokenizers"), pytest.importorskip("tiktoken")
    text, bpe = mixed_megabyte(), BPE.load(PUBLISHED)
    assert len(text.encode()) > 1_000_000 and len(bpe) == 50257
    ids = bpe.encode(text)
    assert bpe.decode(ids) == text
    ranks = {token: i for i, token in enumerate(bpe.tokens[:-1])}
    pattern = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # tiktoken_ext.openai_public.gpt2
    peer = tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: 50256})
    assert ids == peer.encode_ordinary(text)
    model = tokenizers.models.BPE.from_file(str(PUBLISHED / "encoder.json"), str(PUBLISHED / "vocab.bpe"))
    other = tokenizers.Tokenizer(model)
    other.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert ids == other.encode(text).ids


@pytest.mark.parity
def test_merges_are_those_that_tokenizers_learns() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    text = mixed_megabyte()[:300_000]
    bpe = BPE.train(text, 256 + 1000, special=[])
    peer = tokenizers.Tokenizer(tokenizers.models.BPE())
    peer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=1256, initial_alphabet=alphabet, special_tokens=[], show_progress=False, max_token_length=None
    )
    peer.train_from_iterator([text], trainer)
    vocabulary = peer.get_vocab()
    assert bpe.shown() == sorted(vocabulary, key=vocabulary.__getitem__)
