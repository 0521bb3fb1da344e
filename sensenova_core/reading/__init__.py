"""Prompts and images -> token sequences -> keys and values."""
