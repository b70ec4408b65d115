"""What other frameworks call the fields of a recipe."""

from collections.abc import Mapping

SAID_FOR: Mapping[str, str] = {
    **dict.fromkeys(("lr", "max_lr", "peak_lr"), "learning_rate"),
    **dict.fromkeys(("wd", "decay"), "weight_decay"),
    **dict.fromkeys(("eps", "adam_eps"), "epsilon"),
    **dict.fromkeys(("clip", "clip_grad", "grad_clip", "max_grad_norm"), "clip_norm"),
    **dict.fromkeys(("warmup", "warmup_iters", "num_warmup_steps"), "warmup_steps"),
    **dict.fromkeys(("bs", "batch_size", "global_batch_size", "gbs"), "batch_tokens"),
    **dict.fromkeys(("mbs", "micro_batch_size"), "micro_batch_sequences"),
    **dict.fromkeys(("max_steps", "num_steps", "iters", "train_iters", "iterations"), "steps"),
    **dict.fromkeys(("seq_len", "seq_length", "seqlen", "max_seq_len", "block_size"), "sequence_length"),
    **dict.fromkeys(("layers", "n_layers", "n_layer", "depth", "num_hidden_layers"), "num_layers"),
    **dict.fromkeys(("dim", "d_model", "hidden", "n_embd", "width"), "hidden_size"),
    **dict.fromkeys(("heads", "n_heads", "n_head", "num_attention_heads"), "num_heads"),
    **dict.fromkeys(("n_kv_heads", "kv_heads", "num_query_groups", "num_key_value_heads"), "num_kv_heads"),
    **dict.fromkeys(("head_dim", "kv_channels"), "head_size"),
    **dict.fromkeys(("ffn_dim", "d_ff", "intermediate_size", "ffn_size"), "ffn_hidden_size"),
    **dict.fromkeys(("vocab", "n_vocab"), "vocab_size"),
    **dict.fromkeys(("theta", "rope_theta", "rope_base"), "rotary_base"),
    **dict.fromkeys(("tp", "tensor_parallel", "tensor_model_parallel_size"), "tensor"),
    **dict.fromkeys(("pp", "pipeline_parallel", "pipeline_model_parallel_size"), "pipeline"),
    **dict.fromkeys(("cp", "context_parallel"), "context"),
    **dict.fromkeys(("dp", "data_parallel"), "data"),
    **dict.fromkeys(("ep", "expert_parallel"), "expert"),
    **dict.fromkeys(("dtype", "precision", "bf16"), "compute"),
    **dict.fromkeys(("tok", "tokenizer_path", "tokenizer_name"), "tokenizer"),
    **dict.fromkeys(("top_k", "topk", "num_experts_per_tok"), "experts_per_token"),
}
"""The last name of a path, by what people say for it."""
