"""Import of checkpoints that other programs wrote."""
