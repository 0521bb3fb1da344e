"""The Hugging Face hub: what its repositories are called, and downloads."""
