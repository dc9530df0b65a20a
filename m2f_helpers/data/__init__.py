"""From files on disk to pairs that a model can learn from. Notebooks 02 and 06."""
