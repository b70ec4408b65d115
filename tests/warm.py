"""What the server of test ranks imports once: everything that a rank needs, on the CPU."""

import torch

from mai.engine import device

device.prepare("cpu")
torch.set_num_threads(1)

import mai.engine.engine  # noqa: E402, F401 (after the device is chosen)
