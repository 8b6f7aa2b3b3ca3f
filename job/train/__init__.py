"""The worker: one process per GPU, started by ``accelerate launch``. It knows the `RunDir` and nothing above it."""
