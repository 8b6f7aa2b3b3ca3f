"""What is published beside the adapter: ``metrics.json`` and the model card."""
