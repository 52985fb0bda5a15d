"""What the service keeps, behind a contract that every backend meets."""
