"""Published measurements (measured.csv), layouts that gave none (failed_layouts.csv), and each row as a Setting."""
