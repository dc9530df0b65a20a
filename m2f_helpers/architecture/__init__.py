"""Mask2Former taken apart on its installed source and a real run. Notebook 03."""
