"""What is published beside the adapter: ``metrics.json``, ``dataset_report.json``, ``report.html``, the model card."""
