"""What people read of checkpoints, runs and documents."""
