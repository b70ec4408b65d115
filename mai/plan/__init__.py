"""Will it fit, how fast, for how much: pure arithmetic, without a GPU and without torch."""
