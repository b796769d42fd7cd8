"""Scores of sets of images: where images come from, features of them in parts that are kept, numbers made of these."""
