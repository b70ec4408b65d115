"""What the server of test ranks imports once: everything that a rank needs, on the CPU."""

import gc

import torch

from mai.engine import device

device.prepare("cpu")
torch.set_num_threads(1)

import mai.train.farewell  # noqa: E402 (after the device is chosen)
import mai.train.rank  # noqa: E402, F401

# Else every rank walks through all that was imported, and so copies it, each time that it looks for garbage.
gc.freeze()
