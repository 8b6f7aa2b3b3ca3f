"""What is so, before anything is decided: hardware, model, dataset. Nothing here reads a weight or imports torch."""
