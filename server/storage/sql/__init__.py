"""Storage in SQLite or PostgreSQL, with statements of SQLAlchemy Core. No module outside this folder writes SQL."""
