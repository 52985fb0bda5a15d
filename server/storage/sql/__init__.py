"""Storage over SQLAlchemy: SQLite or PostgreSQL. Nothing outside this folder knows SQL or names a dialect."""
