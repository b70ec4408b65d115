"""A plan as lines, tables, pictures and a page."""
