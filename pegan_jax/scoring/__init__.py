"""Scores of sets of images: where images come from, their features in parts that are kept, and numbers from these."""
