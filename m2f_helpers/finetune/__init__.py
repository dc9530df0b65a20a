"""From an edited config to a trained checkpoint. Notebook 04."""
