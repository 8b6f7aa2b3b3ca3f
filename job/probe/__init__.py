"""Short-lived processes that need torch before training starts."""
