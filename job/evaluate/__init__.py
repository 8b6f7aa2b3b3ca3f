"""The process that judges a trained adapter. It has only the files that are to be published, and the base model."""
