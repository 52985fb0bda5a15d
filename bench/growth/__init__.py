"""What happens to the registry's speed as it fills: the same calls at 10³ to 10⁶ versions."""
