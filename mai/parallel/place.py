"""One process's place in a job, as a launcher tells it."""

from dataclasses import dataclass

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""The environment variables that torchrun sets, in the order of the fields below."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    rank: int
    """0 .. world_size - 1, over all nodes."""
    world_size: int
    local_rank: int
    """0 .. on this node: the index of the GPU."""
    master_address: str
    """Where rank 0 listens for the others."""
    master_port: int

    def to_environment(self) -> dict[str, str]:
        """The variables that torchrun would set; `launch/environment.py` reads them back."""
        values = (self.rank, self.world_size, self.local_rank, self.master_address, self.master_port)
        return dict(zip(VARIABLES, map(str, values), strict=True))


ALONE = Place(rank=0, world_size=1, local_rank=0, master_address="127.0.0.1", master_port=0)
"""One rank by itself; port 0 takes any free one."""
