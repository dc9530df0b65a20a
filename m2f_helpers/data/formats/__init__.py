"""Readers of the forms in which people keep labels; `data.convert` puts them to use."""
