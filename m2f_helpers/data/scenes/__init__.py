"""Drawn scenes with exact label maps: data without a download."""
