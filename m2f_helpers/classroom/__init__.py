"""Editions for students and teachers, grading, and a kit for a room without network."""
