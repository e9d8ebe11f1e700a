"""Train networks: one training loop, and the loss of each method."""
