"""Every sample on record: what is collected of each, and the files it goes to."""
