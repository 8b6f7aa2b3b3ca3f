"""Rows to tokens, in a process of its own: read → recognise → render → tokenize and mask → pack → Arrow.

No torch and no GPU. It runs before any rank exists, so that no collective ever waits for a tokenizer.
"""
