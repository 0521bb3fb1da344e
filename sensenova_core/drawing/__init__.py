"""Noise -> image: times, guidance, the denoising loop."""
