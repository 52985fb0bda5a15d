"""The JSON of the HTTP endpoint, to and from messages. It imports core."""
