"""What commands start."""
