"""What `mai prepare` tells: a few lines for people, the same as a dict for programs."""

from typing import Any

from mai.data.prepare import Preparation
from mai.data.split import SPLITS


def summary(preparation: Preparation) -> dict[str, Any]:
    """Plain JSON values."""
    manifest = preparation.dataset.manifest
    return {
        "folder": str(preparation.dataset.folder),
        "is_new": preparation.is_new,
        "seconds": round(preparation.seconds, 3),
        "fingerprint": manifest.fingerprint,
        "vocabulary": manifest.num_ids,
        "splits": {
            name: {
                "documents": manifest.splits[name].num_documents,
                "tokens": manifest.splits[name].num_tokens,
                "text_bytes": manifest.splits[name].text_bytes,
            }
            for name in SPLITS
        },
        "rejected": dict(manifest.rejected),
        "altered": manifest.num_altered,
    }


def summary_lines(preparation: Preparation) -> list[str]:
    told = summary(preparation)
    manifest = preparation.dataset.manifest
    begin = f"prepared in {told['seconds']:.1f} s" if told["is_new"] else "already prepared"
    lines = [f"{told['folder']}: {begin} (fingerprint {told['fingerprint'][:12]})"]
    for name in SPLITS:
        split = manifest.splits[name]
        lines.append(
            f"  {name:<9}{split.num_documents:>9,} documents {split.text_bytes / 1e6:>11,.2f} MB "
            f"{split.num_tokens:>15,} tokens  {split.text_bytes / split.num_tokens:.2f} bytes per token"
        )
    source = manifest.settings.tokenizer or "trained on the documents"
    lines.append(f"  tokenizer {manifest.num_ids:,} tokens, {source}")
    if manifest.rejected:
        reasons = ", ".join(f"{count} {reason}" for reason, count in manifest.rejected.items())
        lines.append(f"  left out  {sum(manifest.rejected.values())} documents: {reasons}")
    if manifest.num_altered:
        lines.append(
            f"  altered   {manifest.num_altered} documents that the tokenizer does not give back byte for byte"
        )
    return lines
