"""Every sample on record: tables, collectors' samples, runs."""
