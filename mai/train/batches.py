"""What a rank of a run reads: the data, verified before the first step, and the batch at each position."""

from mai.batch import Batch
from mai.collectives import first_told
from mai.data.index import Dataset
from mai.data.loader import batch_positions, held_out_sequences, open_dataset, training_sequences
from mai.errors import DataError
from mai.objective.interface import Objective
from mai.recipe import Recipe
from mai.train.session import Session


class Batches:
    """This data-parallel rank's share of every batch; all its model ranks read the same."""

    def __init__(self, recipe: Recipe, objective: Objective, session: Session) -> None:
        """All ranks must make one: together they read every byte. DataError on all if any is damaged or missing."""
        self.dataset = open_dataset(recipe)
        _verify(self.dataset, session)
        self._recipe, self._objective = recipe, objective
        self._train = training_sequences(self.dataset, recipe)
        self._held_out = held_out_sequences(self.dataset, recipe)
        self._data_rank = session.layout.coordinates(session.place.rank).data
        self._data_ranks = session.layout.data

    def training(self, position: int) -> Batch:
        """What the step that begins at this position trains on."""
        return self._objective.batch(self._train, self._share(position, self._recipe.batch_sequences))

    def held_out(self) -> Batch:
        """What the run is judged on, the same every time."""
        return self._objective.batch(self._held_out, self._share(0, self._recipe.evaluate.sequences))

    def held_out_bytes(self) -> float:
        """Bytes of text behind all ranks' held-out targets, each as often as its target counts."""
        whole = self._objective.batch(self._held_out, range(self._recipe.evaluate.sequences))
        text, targets_BS = self.dataset.token_text(), whole.targets_BS.numpy()
        if whole.weights_BS is None:
            return text.num_bytes(targets_BS)
        return text.weighted_bytes(targets_BS, whole.weights_BS.numpy())

    def _share(self, position: int, num_sequences: int) -> range:
        return batch_positions(
            position, batch_sequences=num_sequences, data_rank=self._data_rank, data_ranks=self._data_ranks
        )


def _verify(dataset: Dataset, session: Session) -> None:
    own: str | None = None
    try:
        dataset.verify(part=session.place.rank, parts=session.place.world_size)
    except DataError as error:
        own = str(error)
    if damage := first_told(own, key="data", timeout_seconds=session.timeout_seconds):
        raise DataError(damage)
