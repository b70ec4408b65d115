from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.parallel.upstream import cut_out


@pytest.fixture(scope="session")
def rank_generator(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Megatron-Core's own arithmetic."""
    names = {"parallel_state.py": {"generate_masked_orthogonal_rank_groups", "RankGenerator"}}
    folder = tmp_path_factory.mktemp("megatron")
    generator: Callable[..., Any] = cut_out(names, imports="from typing import List", folder=folder).RankGenerator
    return generator
