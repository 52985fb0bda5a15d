"""Authentication: tokens, the keys that verify them, and the caller that they name. Imports core."""
