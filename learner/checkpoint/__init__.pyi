from .file import read_checkpoint as read_checkpoint
