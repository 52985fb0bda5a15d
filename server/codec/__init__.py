"""The JSON of HTTP, imports and the command line, to and from messages. It imports core."""
