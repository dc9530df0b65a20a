"""From a checkpoint to label maps, scores and figures. Notebook 05."""
