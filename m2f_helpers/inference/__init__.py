"""From a checkpoint to class maps, scores and figures. Notebook 05."""
