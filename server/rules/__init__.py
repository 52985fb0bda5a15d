"""What the registry decides, without gRPC or SQL.

It imports core, validation, codec, and of storage the contract, paging and the file store.
"""
