"""What the registry decides, without gRPC or SQL. It imports core, validation, codec and the contract of storage."""
