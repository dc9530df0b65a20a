"""What has to be there, and what stands in for the rest. Notebook 01."""
