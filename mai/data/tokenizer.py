"""The tokenizer: a byte-level BPE trained on the documents, or a `tokenizer.json` that is loaded and checked.

Only byte-level tokenizers are taken: every token then stands for a known string of bytes, so any text has tokens, and
the loss can be given in bits per byte.
"""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from mai.data.tokenizer_file import missing
from mai.errors import DataError, RecipeError
from mai.recipe.rules import BYTE_LEVEL_TOKENS

TRAINED_END_TOKEN = "<|end|>"
END_TOKENS = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",  # DeepSeek
    "[EOS]",
    "<seed:eos>",
    # Last: beside any of the others it is the end of a message (gpt-oss, Phi).
    TRAINED_END_TOKEN,
)

# Where the text is cut before merging: the pattern of Llama 3 (and, but for details, of GPT-4). On Python sources it
# gives 3% more bytes per token than that of GPT-2.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def check_trainable(vocab_size: int) -> None:
    if vocab_size < BYTE_LEVEL_TOKENS:
        raise RecipeError(
            f"model.vocab_size={vocab_size} is too small for a byte-level tokenizer: 256 bytes and the end of a "
            f"document need {BYTE_LEVEL_TOKENS}"
        )


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """A byte-level BPE with the end of a document at id 0; the same for the same texts in the same order."""
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(_WORDS), behavior="isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, as_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[TRAINED_END_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def load_tokenizer(path: Path, *, vocab_size: int) -> Tokenizer:
    """Read a `tokenizer.json` and check that a model of this vocabulary can use it."""
    tokenizer = read_tokenizer(path)
    needed = num_ids(tokenizer)
    if needed > vocab_size:
        raise DataError(
            f"data.tokenizer={path} has {needed} tokens, more than model.vocab_size={vocab_size}; "
            f"set model.vocab_size to {needed} or the next multiple of parallel.tensor"
        )
    return tokenizer


def read_tokenizer(path: Path, *, takes_special: bool = False) -> Tokenizer:
    """A tokenizer that takes every text literally: no special token in it, nothing added, padded or cut off; with
    `takes_special`, text that spells a special token is that token."""
    if not path.is_file():
        raise DataError(missing(path))
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises a bare Exception for a file it cannot read
        raise DataError(f"{path} is not a Hugging Face tokenizer.json ({error}); export it again") from error
    # Text that spells "<|end|>" is text: it must not end a document.
    tokenizer.encode_special_tokens = not takes_special
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of one document, without its end."""
    # encode_batch_fast keeps no offsets, which makes it a third faster than encode.
    return tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids


def num_ids(tokenizer: Tokenizer) -> int:
    """One more than the largest id: vocabularies may have holes."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def special_token(tokenizer: Tokenizer, content: str, path: Path) -> int | None:
    """Its id, or None; DataError where any text may spell it."""
    token = tokenizer.token_to_id(content)
    if token is not None and token in encode(tokenizer, content):
        raise DataError(f"data.tokenizer={path}: {content} is not marked special, so any text may spell it")
    return token


def special_tokens(tokenizer: Tokenizer) -> str:
    """All that there are, for people to choose from."""
    special = [added.content for added in tokenizer.get_added_tokens_decoder().values() if added.special]
    return " ".join(special) or "none"


def token_texts(tokenizer: Tokenizer, path: Path) -> list[bytes]:
    """The bytes that each id stands for in text; nothing for special tokens and holes."""
    added = tokenizer.get_added_tokens_decoder()
    texts = [b""] * num_ids(tokenizer)
    for content, token in tokenizer.get_vocab(with_added_tokens=True).items():
        if token in added:
            texts[token] = b"" if added[token].special else added[token].content.encode()
            continue
        try:
            texts[token] = bytes(_BYTE_OF[character] for character in content)
        except KeyError as error:
            raise DataError(
                f"data.tokenizer={path} is not byte-level (token {content!r}), so its tokens cannot be counted in "
                "bytes; use a byte-level BPE (GPT-2, Llama 3, Qwen, DeepSeek), or leave data.tokenizer out to train one"
            ) from error
    return texts


def _bytes_by_character() -> dict[str, int]:
    """The printable characters that byte-level tokenizers write bytes as (openai/gpt-2, src/encoder.py)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + rank): byte for rank, byte in enumerate(others)}


_BYTE_OF = _bytes_by_character()
