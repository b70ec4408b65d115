"""How much memory each rank needs, and what would make it fit."""
