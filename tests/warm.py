"""What the server of test ranks imports once: everything that a rank needs, on the CPU."""

import torch

from mai.engine import device

device.prepare("cpu")
torch.set_num_threads(1)

import mai.train.farewell  # noqa: E402 (after the device is chosen)
import mai.train.rank  # noqa: E402, F401
