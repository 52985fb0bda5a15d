"""Who calls (a token's claims) and what the caller may do (scopes and roles)."""
