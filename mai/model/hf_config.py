"""A Hugging Face config.json, read with all that is wrong with it told at once.

Every key is obeyed, or known to change nothing, or refused by name. A key that is missing has the default of the
family's config class in transformers, which each family's file lists.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from mai.errors import RecipeError

Value = TypeVar("Value", int, float, bool)
_LARGEST = 2**31 - 1
_NEEDED = {int: f"a whole number from 0 to {_LARGEST}", float: "a number", bool: "true or false"}

CHANGES_NOTHING = frozenset(
    {
        # What the file is, and who wrote it. The tensors say which model it is, and tokens are roles of their own.
        *("model_type", "architectures", "auto_map", "transformers_version", "_name_or_path", "name_or_path"),
        *("_model_name_or_path", "_commit_hash", "dtype", "torch_dtype", "bos_token_id", "eos_token_id"),
        *("pad_token_id", "unk_token_id", "sep_token_id", "cls_token_id", "mask_token_id", "transformers.js_config"),
        # What a call gives back beside the logits, and other heads than a language model's.
        *("use_cache", "return_dict", "output_hidden_states", "output_attentions", "output_router_logits"),
        *("id2label", "label2id", "num_labels", "problem_type", "classifier_dropout", "finetuning_task"),
        # Which code computes, not what.
        *("attn_implementation", "_attn_implementation", "_attn_implementation_autoset", "experts_implementation"),
        *("pretraining_tp", "ep_size", "tie_last_hidden_states", "unsloth_fixed", "unsloth_version"),
        # Of SmolLM2, Qwen2.5 and Phi-4-mini as published: their classes in transformers do not read them.
        *("is_llama_config", "rope_interleaved", "use_mrope", "interpolate_factor", "full_attn_mod", "lm_head_bias"),
    }
)
"""Whatever they say, the logits are the same (tests/parity/test_config_keys.py changes each)."""

GENERATION = frozenset(
    """
    assistant_confidence_threshold bad_words_ids begin_suppress_tokens cache_implementation constraints
    decoder_start_token_id diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
    encoder_repetition_penalty epsilon_cutoff eta_cutoff exponential_decay_length_penalty force_words_ids
    forced_bos_token_id forced_eos_token_id guidance_scale length_penalty low_memory max_length max_new_tokens
    max_time min_length min_new_tokens min_p no_repeat_ngram_size num_assistant_tokens num_assistant_tokens_schedule
    num_beam_groups num_beams num_return_sequences output_logits output_scores penalty_alpha prefix
    prompt_lookup_num_tokens remove_invalid_values renormalize_logits repetition_penalty return_dict_in_generate
    sequence_bias stop_strings suppress_tokens task_specific_params temperature tf_legacy_loss token_healing top_h
    top_k top_p torchscript typical_p use_mtp
    """.split()  # noqa: SIM905 (a list of words)
)
"""How it is spoken with; transformers takes them from generation_config.json, and passes over them here."""


CHANCE = (
    *("attention_dropout", "hidden_dropout", "residual_dropout", "resid_pdrop", "embd_pdrop"),
    "router_jitter_noise",
)
"""What transformers leaves out by chance, or adds noise to, while it trains."""


def is_a(value: object, kind: type) -> bool:
    """A whole number is a float as well; true and false are no numbers."""
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind is int:
        return isinstance(value, int) and 0 <= value <= _LARGEST
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


class HfConfig:
    """Values by key; `finish` raises what was noted on the way, and what nobody asked for."""

    def __init__(
        self,
        values: Mapping[str, Any],
        defaults: Mapping[str, Any],
        *,
        aliases: Mapping[str, str] | None = None,
        prefix: str = "",
        wrong: list[str] | None = None,
    ) -> None:
        """`defaults`: of the keys that the model's shape hangs on, as in transformers' config class. `aliases`: other
        names of keys. `prefix` and `wrong`: of an object inside config.json, what its keys stand below."""
        self._defaults, self._prefix = defaults, prefix
        self._values: dict[str, Any] = {}
        self._asked: set[str] = set()
        self.wrong: list[str] = [] if wrong is None else wrong
        self.told: list[str] = []
        """What changes nothing of the model as it is, and something of how it would be trained elsewhere."""
        for key, value in values.items():
            name = (aliases or {}).get(key, key)
            if self._values.get(name, value) != value:
                self.wrong.append(
                    f"{prefix}{key}={value!r}: {name} is another name of it, and says {self._values[name]!r}"
                )
            self._values[name] = value

    @property
    def turns_parts(self) -> bool:
        """Whether the family knows heads of which a part is turned."""
        return "partial_rotary_factor" in self._defaults

    def has(self, key: str) -> bool:
        return key in self._values

    def value(self, key: str) -> Any:
        """What the file says, whatever it is; else the default, or None."""
        self._asked.add(key)
        return self._values.get(key, self._defaults.get(key))

    def number(self, key: str, kind: type[Value]) -> Value:
        """The key's value, of this type; noted as wrong where it is missing without a default, or of another."""
        value = self.value(key)
        if is_a(value, kind):
            return kind(value)
        self.refuse(key, f"{_NEEDED[kind]} is needed")
        return kind(1)

    def optional(self, key: str) -> int | None:
        """A positive whole number, or None where it is null or missing without a default."""
        return None if self.value(key) is None else self.number(key, int)

    def must_be(self, key: str, choices: Sequence[object], *, because: str = "") -> Any:
        """The value, noted as unsupported unless it is one of these."""
        value = self.value(key)
        if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in choices):
            self.refuse(key, f"mai supports {' or '.join(map(repr, choices))}{because and f' ({because})'}")
        return value

    def pass_over(self, *keys: str) -> None:
        """As other values are, these change nothing."""
        self._asked.update(keys)

    def refuse(self, key: str, why: str) -> None:
        self.wrong.append(f"{self._prefix}{key}={self.value(key)!r}: {why}")

    def below(self, key: str, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> "HfConfig":
        """An object inside; what is wrong with it is noted here."""
        return HfConfig(values, defaults, prefix=f"{self._prefix}{key}.", wrong=self.wrong)

    def note_unknown(self) -> None:
        for key in sorted(self._values.keys() - self._asked):
            self.refuse(key, "mai does not know what this does; if it does nothing, take it out of config.json")

    def finish(self, place: str) -> None:
        """Raises RecipeError with all that was noted, and every key that nobody asked for."""
        self.pass_over(*CHANGES_NOTHING, *GENERATION)
        self._tell_what_only_training_knows()
        self._refuse_unknown_quantisation()
        self.note_unknown()
        if self.wrong:
            raise RecipeError(*(f"{place}: {wrong}" for wrong in dict.fromkeys(self.wrong)))

    def _tell_what_only_training_knows(self) -> None:
        """transformers leaves out by chance, or adds noise, while it trains."""
        for key in CHANCE:
            if self.value(key):
                self.told.append(f"{self._prefix}{key}={self.value(key)!r} is not obeyed: mai trains without chance")
        self.must_be("is_encoder_decoder", [False, None])
        self.must_be("chunk_size_feed_forward", [0, None])

    def _refuse_unknown_quantisation(self) -> None:
        """The tensors themselves say what is quantised; this says how, and must be a way that is read."""
        said = self.value("quantization_config")
        if said is None:
            return
        method = said.get("quant_method") if isinstance(said, dict) else None
        is_fp8 = method == "fp8" and said.get("weight_block_size") == [128, 128] and said.get("fmt") in (None, "e4m3")
        if not is_fp8 and method != "mxfp4":
            self.refuse("quantization_config", "mai reads fp8 in blocks of 128 x 128 and mxfp4, and nothing else")
