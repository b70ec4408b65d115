"""From documents to a prepared folder: survey, tokenizer, token shards, and dataset.json last.

    find files -> read all once -> tokenizer: train on a sample, or load -> tokenise in parallel -> commit
                  (counts, hash)                                            into .preparing/     rename, dataset.json

Whatever stops it, the folder holds what it held before, or no dataset.json, and then it is not prepared.
"""

import hashlib
import shutil
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from mai.data.dataset_manifest import (
    MANIFEST_NAME,
    TOKENIZER_NAME,
    DatasetManifest,
    FileRecord,
    Settings,
    SplitRecord,
    read_manifest,
    token_type_of,
)
from mai.data.documents import find_pieces, group_pieces
from mai.data.files import LOCK_NAME, owned, sha256_of, storage, write_durably
from mai.data.formats.piece import Piece
from mai.data.index import Dataset
from mai.data.progress_bar import byte_progress
from mai.data.split import SPLITS, Split, split_of
from mai.data.survey import Survey, survey_corpus
from mai.data.token_roles import Roles, find_roles
from mai.data.token_text import TokenText
from mai.data.tokenise import tokenise
from mai.data.tokenizer import check_trainable, load_tokenizer, token_texts, train_tokenizer
from mai.data.writer import SplitWriter
from mai.errors import DataError
from mai.recipe.data import TokenRoles
from mai.recipe.recipe import Recipe
from mai.run_folder import sync_folder

GROUP_BYTES = 256 * 2**10
"""Text that one process tokenises at a time."""

_STAGING_NAME = ".preparing"


@dataclass(frozen=True, slots=True)
class _Shards:
    splits: Mapping[Split, SplitRecord]
    num_altered: int
    files: dict[str, FileRecord]


@dataclass(frozen=True, slots=True)
class Preparation:
    """What `prepare` did."""

    dataset: Dataset
    is_new: bool
    seconds: float


def prepare(recipe: Recipe, *, workers: int, again: bool = False, progress: bool = False) -> Preparation:
    """Make `data.folder` hold this recipe's tokens; returns at once when it does already.

    Raises DataError when the corpus or the tokenizer cannot be used, or when the folder holds another recipe's
    dataset and `again` is not given."""
    begin = time.monotonic()
    folder = Path(recipe.data.folder)
    settings = Settings.of(recipe)
    if settings.tokenizer is None:
        check_trainable(settings.vocab_size)
    else:
        load_tokenizer(Path(settings.tokenizer).expanduser(), vocab_size=settings.vocab_size)
    pieces = find_pieces(settings.documents)
    found = None if again else _find_prepared(folder, recipe)
    survey = _survey(pieces, settings, progress=progress)
    if found is None:
        _refuse_foreign(folder)
        with owned(folder):
            # Another process may have prepared it while this one waited.
            found = None if again else _find_prepared(folder, recipe)
            if found is None:
                built = _build(folder, pieces, survey, settings, workers=workers, progress=progress)
                return Preparation(built, is_new=True, seconds=time.monotonic() - begin)
    _check_unchanged(found, survey)
    found.verify()
    return Preparation(found, is_new=False, seconds=time.monotonic() - begin)


def _find_prepared(folder: Path, recipe: Recipe) -> Dataset | None:
    if not (folder / MANIFEST_NAME).exists():
        return None
    dataset = Dataset.open(folder)
    dataset.check_belongs(recipe)
    return dataset


def _refuse_foreign(folder: Path) -> None:
    """Writing replaces files, so the folder must be new, empty, or ours: with our lock or a dataset of ours."""
    if not folder.is_dir() or (folder / LOCK_NAME).exists() or not any(folder.iterdir()):
        return
    try:
        read_manifest(folder)
    except DataError as error:
        raise DataError(
            f"data.folder={folder} holds files, but no prepared dataset; choose a new folder, so that none is replaced"
        ) from error


def _survey(pieces: list[Piece], settings: Settings, *, progress: bool) -> Survey:
    total_bytes = sum(piece.num_bytes for piece in pieces)
    with byte_progress("read", total_bytes, shown=progress) as advance:
        return survey_corpus(pieces, held_out_fraction=settings.held_out_fraction, advance=advance)


def _check_unchanged(dataset: Dataset, survey: Survey) -> None:
    if survey.corpus_sha256 != dataset.manifest.corpus_sha256:
        raise DataError(
            f"data.folder={dataset.folder} was prepared from other text than data.documents holds now; choose another "
            "data.folder, or run mai prepare with --again to replace it"
        )


def _build(
    folder: Path, pieces: list[Piece], survey: Survey, settings: Settings, *, workers: int, progress: bool
) -> Dataset:
    staging = folder / _STAGING_NAME
    with storage(folder):
        shutil.rmtree(staging, ignore_errors=True)  # what a killed process left
        staging.mkdir()
        try:
            text, roles = _write_tokenizer(staging, survey, settings)
            files = {path.name: _record(path) for path in sorted(staging.iterdir())}
            shards = _write_shards(
                staging, pieces, survey, settings, text, roles.beginning, workers=workers, progress=progress
            )
            manifest = DatasetManifest(
                settings=settings,
                corpus_sha256=survey.corpus_sha256,
                num_ids=len(text.lengths),
                end_token=text.end_token,
                splits=shards.splits,
                rejected=survey.rejected,
                num_altered=shards.num_altered,
                files=files | shards.files,
                beginning_token=roles.beginning,
            )
            _commit(folder, staging, manifest)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return Dataset(folder, manifest)


def _write_tokenizer(staging: Path, survey: Survey, settings: Settings) -> tuple[TokenText, Roles]:
    path = staging / TOKENIZER_NAME
    if settings.tokenizer is None:
        tokenizer = train_tokenizer(survey.sample, vocab_size=settings.vocab_size)
        write_durably(path, tokenizer.to_str().encode())
        source = path
    else:
        source = Path(settings.tokenizer).expanduser()
        write_durably(path, source.read_bytes())
    tokenizer = load_tokenizer(path, vocab_size=settings.vocab_size)
    roles = find_roles(tokenizer, TokenRoles(document_end=settings.document_end, beginning=settings.beginning), source)
    text = TokenText.of(token_texts(tokenizer, source), end_token=roles.document_end)
    for name, content in text.files().items():
        write_durably(staging / name, content)
    return text, roles


def _write_shards(
    staging: Path,
    pieces: list[Piece],
    survey: Survey,
    settings: Settings,
    text: TokenText,
    beginning: int | None,
    *,
    workers: int,
    progress: bool,
) -> _Shards:
    token_type = token_type_of(len(text.lengths))
    writers = {name: SplitWriter(staging, name, token_type=token_type, end_token=text.end_token) for name in SPLITS}
    corpus = hashlib.sha256()
    num_altered = 0
    groups = group_pieces(pieces, group_bytes=GROUP_BYTES)
    total_bytes = sum(piece.num_bytes for piece in pieces)
    with (
        closing(
            tokenise(groups, folder=staging, end_token=text.end_token, beginning=beginning, workers=workers)
        ) as tokenised,
        byte_progress("tokenise", total_bytes, shown=progress) as advance,
    ):
        for group, documents in zip(groups, tokenised, strict=True):
            for document in documents:
                corpus.update(document.digest)
                num_altered += document.is_altered
                split = split_of(document.digest, held_out_fraction=settings.held_out_fraction)
                writers[split].append(document.tokens, text_bytes=document.text_bytes)
            advance(sum(piece.num_bytes for piece in group))
    if corpus.hexdigest() != survey.corpus_sha256:
        raise DataError("data.documents changed while they were read; run mai prepare once nothing writes to them")
    splits = {name: writer.close() for name, writer in writers.items()}
    return _Shards(
        splits, num_altered, {name: file for writer in writers.values() for name, file in writer.files.items()}
    )


def _commit(folder: Path, staging: Path, manifest: DatasetManifest) -> None:
    """From the first line on the folder is not prepared; with the last it is. Open memory maps keep the old files."""
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
    sync_folder(folder)
    for old in folder.glob("*.bin"):
        old.unlink()
    for name in manifest.files:
        (staging / name).replace(folder / name)
    write_durably(staging / MANIFEST_NAME, manifest.to_json())
    sync_folder(folder)
    (staging / MANIFEST_NAME).replace(folder / MANIFEST_NAME)
    sync_folder(folder)


def _record(path: Path) -> FileRecord:
    return FileRecord(num_bytes=path.stat().st_size, sha256=sha256_of(path))
