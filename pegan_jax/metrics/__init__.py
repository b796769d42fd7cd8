"""Measures of images; they import neither the trainer nor the models."""
